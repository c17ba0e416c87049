"""A small real-mode guest: 16 KiB of memory at 0, segments at 0, code from 0x1000, nothing above."""

from __future__ import annotations

import ctypes
import errno
import mmap
import threading

from pyvmm.pykvm import Kvm, Vcpu, Vm
from pyvmm.pykvm.kick import Kick

MEMORY = 0x4000
CODE = 0x1000
DATA = 0x2000
NOWHERE = 0x5000
PAGE = 0x1000

HLT = b"\xf4"
STI = b"\xfb"
SPIN = b"\xeb\xfe"


def word(value: int, size: int = 2) -> bytes:
    return value.to_bytes(size, "little")


def out(port: int, value: int, size: int = 1) -> bytes:
    """mov dx, port; mov al/ax/eax, value; out dx, al/ax/eax"""
    load = {1: b"\xb0", 2: b"\xb8", 4: b"\x66\xb8"}[size] + word(value, size)
    return b"\xba" + word(port) + load + {1: b"\xee", 2: b"\xef", 4: b"\x66\xef"}[size]


def inp(port: int, size: int = 1) -> bytes:
    """mov dx, port; in al/ax/eax, dx"""
    return b"\xba" + word(port) + {1: b"\xec", 2: b"\xed", 4: b"\x66\xed"}[size]


def store(address: int, size: int = 1) -> bytes:
    """mov [address], al/ax/eax"""
    return {1: b"\xa2", 2: b"\xa3", 4: b"\x66\xa3"}[size] + word(address)


def load(address: int, size: int = 1) -> bytes:
    """mov al/ax/eax, [address]"""
    return {1: b"\xa0", 2: b"\xa1", 4: b"\x66\xa1"}[size] + word(address)


def put(address: int, value: int) -> bytes:
    """mov byte [address], value"""
    return b"\xc6\x06" + word(address) + word(value, 1)


class Stuck(Exception):
    """The guest did not leave KVM_RUN in time."""


class RealMode:
    """A VM with one vCPU about to run *code*.

    :param flags: of the memory slot (slot 0)
    """

    def __init__(self, kvm: Kvm, code: bytes, irqchip: bool = False, flags: int = 0) -> None:
        self.vm: Vm = kvm.create_vm()
        self.memory = mmap.mmap(-1, MEMORY)
        self._pin = ctypes.c_char.from_buffer(self.memory)
        self.vm.set_identity_map_addr(0xFEFF_C000)
        self.vm.set_tss_addr(0xFEFF_D000)
        if irqchip:
            self.vm.create_irqchip()
        self.address = ctypes.addressof(self._pin)
        self.vm.set_user_memory_region(0, 0, MEMORY, self.address, flags)
        self.vcpu: Vcpu = self.vm.create_vcpu(0)
        self.kick = Kick(self.vcpu)
        self.memory[CODE : CODE + len(code)] = code
        self.start_at(CODE)

    def start_at(self, ip: int) -> None:
        sregs = self.vcpu.get_sregs()
        for name in ("cs", "ds", "es", "ss"):
            segment = getattr(sregs, name)
            segment.base, segment.selector = 0, 0
        self.vcpu.set_sregs(sregs)
        regs = self.vcpu.get_regs()
        regs.rip, regs.rsp, regs.rflags = ip, MEMORY, 2
        self.vcpu.set_regs(regs)

    def run(self, seconds: float = 10.0) -> int:
        """Run to the next exit; its reason."""
        with self.kick.attached():
            watchdog = threading.Timer(seconds, self.kick.kick)
            watchdog.start()
            try:
                while self.vcpu.run_raw() < 0:
                    if self.vcpu.last_errno() != errno.EINTR:
                        raise OSError(self.vcpu.last_errno(), "KVM_RUN")
                    if self.vcpu.immediate_exit:
                        self.kick.consume()
                        raise Stuck
            finally:
                watchdog.cancel()
                watchdog.join()
        return int(self.vcpu.run.exit_reason)

    def io(self) -> tuple[int, int, int, bytes]:
        """The port exit: direction, port, count, data."""
        io = self.vcpu.run.io
        size = io.size * io.count
        return io.direction, io.port, io.count, bytes(self.vcpu.run8[io.data_offset : io.data_offset + size])

    def answer(self, data: bytes) -> None:
        """What the port exit shall read."""
        start = self.vcpu.run.io.data_offset
        self.vcpu.run8[start : start + len(data)] = data

    def close(self) -> None:
        self.vm.close()
        del self._pin
        self.memory.close()
