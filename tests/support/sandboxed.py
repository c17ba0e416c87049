"""A program: a machine in the sandbox, or without it, which tells on its standard output what happened.

``python3 -m tests.support.sandboxed TASK``, with a JSON text:

- ``firmware``: the path of a guest program that writes to PORT
- ``disk``: the path of an image; there is another one with a 2 behind its name
- ``canary``: the path of a file that is open when the sandbox is entered
- ``sandbox``: whether there is one
- ``user``: the number of an ordinary user to become, after everything was opened; null to remain who one is
- ``scene``: a function of SCENES

It prints JSON texts, a line each: what a scene says, then how the guest ended and what it printed. The end of
its input stops the guest.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from pyvmm.arch import native
from pyvmm.backends.disk.raw import RawDisk
from pyvmm.board.device import Device
from pyvmm.config import Config
from pyvmm.host import opened
from pyvmm.host.libc import ioctl
from pyvmm.host.sandbox import Sandbox
from pyvmm.loop import LoopThread
from pyvmm.machine.kernel_log import PANIC, find_panic
from pyvmm.machine.late import load
from pyvmm.machine.machine import Machine
from pyvmm.pykvm.ioctls import KVM_GET_API_VERSION
from pyvmm.pykvm.kvm import API_VERSION
from pyvmm.testing import FakeDriver
from pyvmm.virtio.block.device import Block
from pyvmm.virtio.console.device import VirtioConsole
from pyvmm.virtio.console.port import Port
from pyvmm.virtio.net.device import Net
from pyvmm.virtio.rng.device import Rng
from tests.support import disks, sandbox_acts
from tests.support.console_driver import PipeEnds, give_buffers, received, send
from tests.support.kernel_log import PrintkLog
from tests.support.net_driver import NetDriver, Wire, frame

#: Where the guest writes a byte, again and again.
PORT = 0x80
#: Seconds after which a guest that nobody ended is ended.
WATCHDOG = 120.0
#: Seconds until the guest is looked at, whether it has halted for good: ``machine.halt`` is loaded then.
AFTER_A_WHILE = 0.5
#: Descriptors are below it.
MOST = 256
#: What the audit hook must not see: a name is looked up, a file opened, a library loaded, a program started.
LATE = {
    "ctypes.dlopen",
    "import",
    "open",
    "os.exec",
    "os.listdir",
    "os.posix_spawn",
    "socket.__new__",
    "socket.connect",
    "subprocess.Popen",
}

Scene = Callable[[Machine, "Attacker"], None]


def tell(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


class Attacker(Device):
    """Calls *act* once, in the thread of the vCPU that writes to it first."""

    name = "attacker"

    def __init__(self) -> None:
        self.act: Any = None

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        act, self.act = self.act, None
        if act is not None:
            act()


def main(task: dict[str, Any]) -> None:
    opened.keep("/dev/kvm", os.O_RDWR)
    opened.keep(task["firmware"], os.O_RDONLY)
    serial, console, wire = PipeEnds(), PipeEnds(), Wire()
    devices = [
        Rng(),
        Block(RawDisk(task["disk"])),
        Net(wire, mac=bytes.fromhex("525400000001")),
        VirtioConsole([Port(console)]),
    ]
    scene = SCENES[task["scene"]](task["disk"] + "2")
    load(virtio=True)
    keep = [fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_open(fd)]
    os.open(task["canary"], os.O_RDONLY)
    if task["user"] is not None:
        os.setgroups([])
        os.setresgid(task["user"], task["user"], task["user"])
        os.setresuid(task["user"], task["user"], task["user"])
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as of a process that this user started
    sandbox = Sandbox()
    late: list[str] = []
    if task["sandbox"]:
        sandbox.enter(keep)
        sys.addaudithook(lambda event, arguments: event in LATE and late.append(f"{event} {arguments}"))
    config = Config(firmware=task["firmware"], memory="16M", timeout=WATCHDOG, console="none")
    machine = Machine(config, console=serial, devices=devices)
    attacker = Attacker()
    port = PORT if native.NAME == "x86_64" else 0
    machine.add_device(attacker, port=port, size=1)
    if task["sandbox"]:
        machine.at_start(sandbox.seal)
    sandbox_acts.descriptors.update(kvm=_kvm(), vm=machine.vm.fd)
    scene(machine, attacker)
    machine.loop.add(0, 1, lambda _: machine.stop())
    ending = machine.run()
    tell(
        lacking=sandbox.lacking,
        code=ending.code,
        reason=ending.reason,
        detail=ending.detail,
        printed=machine.log.text(),
        late=late,
    )


def acts(path: str) -> Scene:
    """All acts in a vCPU's thread, then in the loop's, then in one that begins now."""

    def run(machine: Machine, attacker: Attacker) -> None:
        def in_vcpu() -> None:
            tell(thread="vcpu", outcomes=sandbox_acts.tried())
            machine.loop.call_soon(in_loop)

        def in_loop() -> None:
            tell(thread="loop", outcomes=sandbox_acts.tried())
            thread = LoopThread("another")
            thread.loop.call_soon(in_thread)
            machine.at_end(thread.close)

        def in_thread() -> None:
            tell(thread="another", outcomes=sandbox_acts.tried())
            tell(running=os.getpid())

        attacker.act = in_vcpu

    return run


def traffic(path: str) -> Scene:
    """Requests to devices of each kind, a pause, a search for a panic while the guest runs, then its end.

    The driver is the fake one, on devices of its own: those of the machine are the guest's. *path* is the
    image of its disk.
    """
    disk = FakeDriver(Block(RawDisk(path)))
    wire, ends = Wire(), PipeEnds()
    net = NetDriver(Net(wire, mac=bytes.fromhex("525400000002")))
    console = FakeDriver(VirtioConsole([Port(ends)]))

    def serve(machine: Machine) -> None:
        data = bytes(range(256)) * 16
        for kind, parts, answer in (
            (disks.OUT, [data], 1),
            (disks.IN, [], len(data) + 1),
            (disks.FLUSH, [], 1),
            (disks.DISCARD, [disks.segment(8, 8, 0)], 1),
            (disks.WRITE_ZEROES, [disks.segment(16, 8, 0)], 1),
            (disks.GET_ID, [], 21),
        ):
            found = disk.request(0, [disks.header(kind), *parts], [answer])
            assert found[-1] == disks.OK, kind
        net.give(2048)
        wire.arrive(frame(100))
        assert net.received() == [frame(100)]
        net.send(frame(200))
        assert wire.sent() == [bytes(12) + frame(200)]
        send(console, [b"out"])
        assert ends.read() == b"out"
        give_buffers(console, 16)
        os.write(ends.writer, b"in")
        console.run(lambda: console.queues[0].used_idx != console.memory.read_u16(console.queues[0].used + 2))
        assert received(console) == b"in"
        machine.pause()
        end = machine.memory.ram_spans()[-1][1]
        log = PrintkLog(machine.memory, end - (1 << 20), end - (2 << 20), 0, 1 << 10)
        log.add(PANIC + b"no init")
        assert find_panic(machine.memory) == "Kernel panic - not syncing: no init"
        machine.resume()
        machine.power_button()
        for driver in (disk, net, console):
            driver.close()
        tell(served=True, devices=sorted(machine.devices))
        machine.loop.call_later(AFTER_A_WHILE, machine.stop)

    def served(machine: Machine) -> None:
        try:
            serve(machine)
        except BaseException as error:
            tell(failed=repr(error))
            machine.stop()
            raise

    def run(machine: Machine, attacker: Attacker) -> None:
        def begin() -> None:
            thread = LoopThread("traffic")
            thread.loop.call_soon(lambda: served(machine))
            machine.at_end(thread.close)

        attacker.act = lambda: machine.loop.call_soon(begin)

    return run


def guest(path: str) -> Scene:
    """The guest alone, to its end."""
    return lambda machine, attacker: None


#: Each opens what it needs, before the sandbox is entered, and returns what is done with the machine.
SCENES = {"acts": acts, "guest": guest, "traffic": traffic}


def _kvm() -> int:
    """The machine's descriptor of /dev/kvm, the last that answers: others are closed later."""
    return max(fd for fd in range(MOST) if ioctl(fd, KVM_GET_API_VERSION, 0) == API_VERSION)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
