"""What one port write costs bare Python: a KVM_RUN loop with pre-boxed arguments and a method call.

Usage: ``bare_loop.py ROM WRITES [ROUNDS]`` with firmware/x86_64/bin/io_loop.bin. Prints one line a
round: nanoseconds per exit. Nothing of pyvmm is used: this is the least a VMM in Python can
cost, the same guest as kvm_loop.c runs. Pin it with taskset.

Numbers and offsets: <linux/kvm.h> on x86-64, struct kvm_run.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
import time

KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_TSS_ADDR = 0xAE47
KVM_SET_IDENTITY_MAP_ADDR = 0x4008AE48
KVM_RUN = 0xAE80
KVM_EXIT_IO = 2

RAM = 1 << 20
PAGE = 4096
ROM_END = 1 << 32
PARAMETERS = 48
PORT = 0x80
DEBUG_EXIT = 0x501

# Indexes into the run page: as 32-bit words the exit reason, as 64-bit words the union.
EXIT_REASON = 8 // 4
IO = 32 // 8
DATA_OFFSET = 40 // 8

libc = ctypes.CDLL(None, use_errno=True)


class Device:
    """One port with a device behind it, as a VMM has them."""

    def __init__(self) -> None:
        self.last = 0
        self.writes = 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.last = value
        self.writes += 1


def request(fd: int, number: int, argument: object) -> int:
    result: int = libc.ioctl(fd, ctypes.c_ulong(number), argument)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"ioctl {number:#x}: {os.strerror(error)}")
    return result


def memory(vm: int, slot: int, gpa: int, size: int) -> mmap.mmap:
    area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    host = ctypes.addressof(ctypes.c_char.from_buffer(area))
    request(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", slot, 0, gpa, size, host))
    return area


def one_round(rom_bytes: bytes, writes: int) -> float:
    """Nanoseconds per exit."""
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    vm = request(kvm, KVM_CREATE_VM, 0)
    request(vm, KVM_SET_IDENTITY_MAP_ADDR, struct.pack("<Q", 0xFEFFC000))
    request(vm, KVM_SET_TSS_ADDR, ctypes.c_ulong(0xFEFFD000))
    ram = memory(vm, 0, 0, RAM)
    rom = memory(vm, 1, ROM_END - PAGE, PAGE)
    rom[:] = rom_bytes
    struct.pack_into("<QQ", rom, PAGE - PARAMETERS, writes, PORT)
    vcpu = request(vm, KVM_CREATE_VCPU, 0)
    run = mmap.mmap(vcpu, request(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
    run8 = memoryview(run)
    run32, run64 = run8.cast("I"), run8.cast("Q")

    # Two entries, as a VMM's table from an exit's word to the method that handles it.
    device, last = Device(), Device()
    word = 1 | 1 << 8 | 1 << 32
    handlers = {word | PORT << 16: device.write, word | DEBUG_EXIT << 16: last.write}
    ioctl, fd, number, zero = libc.ioctl, ctypes.c_int(vcpu), ctypes.c_ulong(KVM_RUN), ctypes.c_ulong(0)

    if ioctl(fd, number, zero) != 0 or run32[EXIT_REASON] != KVM_EXIT_IO:
        raise OSError("the guest did not reach its loop")
    device.write(0, 1, run8[run64[DATA_OFFSET]])
    begin = time.perf_counter_ns()
    while not last.writes:
        if ioctl(fd, number, zero) != 0:
            raise OSError(ctypes.get_errno(), "KVM_RUN")
        if run32[EXIT_REASON] != KVM_EXIT_IO:
            raise OSError(f"exit reason {run32[EXIT_REASON]}")
        handlers[run64[IO]](0, 1, run8[run64[DATA_OFFSET]])
    end = time.perf_counter_ns()
    if device.writes != writes:
        raise OSError(f"{device.writes} writes arrived")
    for file in (vcpu, vm, kvm):
        os.close(file)
    del ram
    return (end - begin) / writes


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit("usage: bare_loop.py ROM WRITES [ROUNDS]")
    with open(sys.argv[1], "rb") as file:
        rom = file.read()
    for _ in range(int(sys.argv[3]) if len(sys.argv) > 3 else 1):
        print(f"{one_round(rom, int(sys.argv[2], 0)):.1f}", flush=True)


if __name__ == "__main__":
    main()
