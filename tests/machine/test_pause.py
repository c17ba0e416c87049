"""Pause and resume of guests that never stand still by themselves."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pyvmm.board.device import Device
from pyvmm.config import Config
from pyvmm.devices.sp805 import CONTROL, LOAD, Sp805
from pyvmm.loop import Loop
from pyvmm.machine.ending import CRASHED, OK, STOPPED, TOLD, Ending
from pyvmm.machine.machine import Machine
from pyvmm.virtio import features as f
from pyvmm.virtio.device import DEFERRED, Deferred, VirtioDevice
from pyvmm.virtio.ring.chain import Chain
from pyvmm.virtio.rng.device import Rng
from pyvmm.virtio.transport import mmio
from tests.support import programs
from tests.support.firmware_guest import BIN, PARAMETERS, PASSED, Transcript
from tests.support.rings import Copier

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]

LIMIT = 20.0
#: Where a guest has its struct pvclock_vcpu_time_info, the offset of its flags, and one of them.
#: Linux arch/x86/include/asm/pvclock-abi.h.
PVCLOCK, PVCLOCK_FLAGS, PVCLOCK_GUEST_STOPPED = 0x2000, 29, 1 << 1


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    """Machines that count in memory, started; stopped at the end."""
    machines = []

    def make(**keys: object) -> Machine:
        machine = programs.machine(tmp_path, programs.COUNT, **keys)
        machines.append(machine)
        machine.start()
        moves_on(machine)
        return machine

    yield make
    for machine in machines:
        machine.close()


def moves_on(machine: Machine) -> None:
    """Wait until the guest has counted further."""
    before = programs.count(machine)
    end = time.monotonic() + LIMIT
    while programs.count(machine) == before:
        assert time.monotonic() < end, "the guest does not count"
        os.sched_yield()


def in_threads(count: int, function: Callable[[], object]) -> None:
    """Run *function* in *count* threads at once, until all have returned."""
    start = threading.Barrier(count)

    def run() -> None:
        start.wait(LIMIT)
        function()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_memory_when_paused_stands_still(counting: Callable[..., Machine]) -> None:
    machine = counting()

    machine.pause()
    before = bytes(machine.memory.view(0, 0xE0000))
    end = time.monotonic() + 0.05  # a guest that ran would count some 10,000 times
    while time.monotonic() < end:
        assert programs.count(machine) == int.from_bytes(before[0x1000:0x1004], "little")

    assert machine.memory.view(0, 0xE0000) == before


@pytest.mark.parametrize("cpus", [1, 3])
def test_machine_when_paused_and_resumed_many_times_goes_on(
    counting: Callable[..., Machine], cpus: int
) -> None:
    machine = counting(cpus=cpus)

    for round_ in range(100):
        machine.pause()
        before = programs.count(machine)
        assert programs.count(machine) == before
        machine.resume()
        if round_ % 10 == 0:
            moves_on(machine)

    moves_on(machine)


def test_pause_when_paused_already_returns_and_one_resume_is_enough(
    counting: Callable[..., Machine],
) -> None:
    machine = counting()

    machine.pause()
    machine.pause()
    machine.resume()

    moves_on(machine)


def test_resume_when_not_paused_changes_nothing(counting: Callable[..., Machine]) -> None:
    machine = counting()

    machine.resume()

    machine.pause()
    machine.resume()
    moves_on(machine)


def test_pause_when_called_by_several_threads_has_stopped_the_guest_for_each(
    counting: Callable[..., Machine],
) -> None:
    machine = counting(cpus=2)

    def pause() -> None:
        machine.pause()
        before = programs.count(machine)
        os.sched_yield()
        assert programs.count(machine) == before

    for _ in range(10):
        in_threads(4, pause)
        machine.resume()
        moves_on(machine)


def test_pause_and_resume_when_mixed_by_several_threads_do_not_hang(
    counting: Callable[..., Machine],
) -> None:
    machine = counting(cpus=3)

    def pause_and_resume() -> None:
        for _ in range(50):
            machine.pause()
            machine.resume()

    in_threads(4, pause_and_resume)

    machine.resume()
    moves_on(machine)


def test_end_when_paused_ends(counting: Callable[..., Machine]) -> None:
    machine = counting(cpus=2)
    machine.pause()

    machine.stop()

    assert machine.wait().code == STOPPED


def test_pause_when_the_machine_is_ending_returns(tmp_path: Path) -> None:
    for _ in range(20):
        machine = programs.machine(tmp_path, programs.COUNT)
        machine.start()
        pauser = threading.Thread(target=machine.pause, daemon=True)
        pauser.start()
        machine.end(Ending(OK, "test", TOLD))

        assert machine.wait().reason == "test"
        pauser.join(LIMIT)
        assert not pauser.is_alive()


def test_pause_when_ended_returns(tmp_path: Path) -> None:
    machine = programs.machine(tmp_path, programs.PASS)
    machine.run()

    machine.pause()
    machine.resume()


def test_pause_when_not_started_holds_the_first_instruction_back(tmp_path: Path) -> None:
    with programs.machine(tmp_path, programs.COUNT) as machine:
        machine.pause()
        machine.start()
        machine.pause()
        assert programs.count(machine) == 0

        machine.resume()

        moves_on(machine)


def test_queued_port_writes_when_paused_have_been_carried_out(tmp_path: Path) -> None:
    # inc byte [COUNTER]; mov al, [COUNTER]; out dx, al: the console says the last count.
    code = b"\xba\xf8\x03" + bytes.fromhex("fe060010 a00010 ee ebf6")
    console = Transcript()
    with programs.machine(tmp_path, code, console) as machine:
        machine.start()
        for _ in range(20):
            machine.pause()
            said, counted = len(console.data), programs.count(machine)
            assert (counted - said) % 256 in (0, 1)  # between the two instructions, or after both
            machine.resume()
            moves_on(machine)


class Still:
    """A machine whose time is the test's: its loop's clock goes only in ``move``."""

    def __init__(
        self, tmp_path: Path, code: bytes, devices: Sequence[VirtioDevice] = (), **keys: object
    ) -> None:
        self.now = 0.0
        self.loop = Loop(lambda: self.now)
        self.console = Transcript()
        keys = {"firmware": programs.rom(tmp_path, code), "memory": "2M", **keys}
        config = Config(console="none", **keys)
        self.machine = Machine(config, loop=self.loop, console=self.console, devices=devices)

    def move(self, seconds: float) -> None:
        """Let time pass, and the loop turn twice: what was due has been called then."""
        self.now += seconds
        for _ in range(2):
            turned = threading.Event()
            self.loop.call_soon(turned.set)
            turned.wait(0.2)  # a loop that has ended turns no more

    def close(self) -> None:
        self.machine.close()
        self.loop.close()


@pytest.fixture
def still(tmp_path: Path) -> Iterator[Callable[..., Still]]:
    made = []

    def make(code: bytes = programs.COUNT, **keys: object) -> Still:
        made.append(Still(tmp_path, code, **keys))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_timeout_when_paused_stands_still_and_has_afterwards_what_was_left(
    still: Callable[..., Still],
) -> None:
    one = still(timeout=60)
    one.machine.start()
    one.move(50)
    one.machine.pause()
    one.move(1000)
    assert one.machine.ending is None

    one.machine.resume()
    one.move(9)
    assert one.machine.ending is None
    one.move(2)

    assert one.machine.wait().reason == "timeout"


def test_panicked_guest_when_paused_keeps_its_time_to_reboot(still: Callable[..., Still]) -> None:
    words = programs.outb(0x505, 1) + programs.outb(0x3F8, *b"Kernel panic - not syncing: test\n")
    one = still(words + b"\xeb\xfe")
    one.machine.start()
    end = time.monotonic() + LIMIT
    while b"test\n" not in one.console.data:
        assert time.monotonic() < end, "the guest does not panic"
        one.move(0.02)  # the queued writes of a guest that does not exit are carried out by the clock
    one.machine.pause()
    one.move(1000)
    assert one.machine.ending is None

    one.machine.resume()
    one.move(11)  # two looks whether the consoles are silent
    one.move(11)

    assert one.machine.wait().code == CRASHED


def test_watchdog_when_paused_does_not_bite_until_the_rest_of_its_time_is_over(
    still: Callable[..., Still],
) -> None:
    one = still()
    bites = []
    dog = Sp805(one.machine.clock, lambda: bites.append(one.machine.clock.clock()), frequency=1000)
    one.machine.add_device(dog, size=0x1000)
    one.machine.start()
    dog.write(LOAD, 4, 10_000)
    dog.write(CONTROL, 4, 3)  # it bites when 10 s have passed twice
    one.move(15)
    one.machine.pause()
    one.move(1000)
    left = dog.read(4, 4)
    one.move(1000)
    assert (bites, dog.read(4, 4)) == ([], left)

    one.machine.resume()
    one.move(left / 1000 - 0.1)
    assert not bites
    one.move(0.2)

    assert len(bites) == 1


def drive(machine: Machine) -> None:
    """Start the machine's virtio device, as a driver that uses none of its queues."""
    assert machine.virtio is not None
    transport = machine.virtio.attached[0].transport
    status = f.ACKNOWLEDGE | f.DRIVER
    transport.write(mmio.STATUS, 4, status)
    transport.write(mmio.DRIVER_FEATURES_SEL, 4, 1)
    transport.write(mmio.DRIVER_FEATURES, 4, f.F_VERSION_1 >> 32)
    for bit in (f.FEATURES_OK, f.DRIVER_OK):
        status |= bit
        transport.write(mmio.STATUS, 4, status)
    assert transport.read(mmio.STATUS, 4) == status


class Alarm(Copier):
    """Sets a timer when its driver starts it."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.rung = threading.Event()

    def started(self) -> None:
        self.runtime.later(self.seconds, self.rung.set)


class AlarmInItsThread(Alarm):
    own_thread = True


def test_timer_of_a_virtio_device_when_paused_has_afterwards_what_was_left(
    still: Callable[..., Still],
) -> None:
    alarm = Alarm(60)
    one = still(devices=[alarm])
    one.machine.start()
    drive(one.machine)
    one.move(50)
    one.machine.pause()
    one.move(1000)
    assert not alarm.rung.is_set()

    one.machine.resume()
    one.move(9)
    assert not alarm.rung.is_set()
    one.move(2)

    assert alarm.rung.is_set()


def test_timer_of_a_device_with_a_thread_of_its_own_when_paused_waits_for_the_resume(
    still: Callable[..., Still],
) -> None:
    alarm = AlarmInItsThread(0.1)
    one = still(devices=[alarm])
    one.machine.start()
    one.machine.pause()
    drive(one.machine)
    after = threading.Event()
    alarm.runtime.loop.call_later(0.2, after.set)
    assert after.wait(LIMIT)
    assert not alarm.rung.is_set()

    one.machine.resume()

    assert alarm.rung.wait(LIMIT)


def test_pause_when_a_device_with_a_thread_of_its_own_runs_a_timer_waits_for_it(
    still: Callable[..., Still],
) -> None:
    inside, leave, paused = threading.Event(), threading.Event(), threading.Event()

    class Slow(AlarmInItsThread):
        def started(self) -> None:
            self.runtime.later(0, lambda: (inside.set(), leave.wait(LIMIT)))

    one = still(devices=[Slow(0)])
    one.machine.start()
    drive(one.machine)
    assert inside.wait(LIMIT)
    pausing = threading.Thread(target=lambda: (one.machine.pause(), paused.set()), daemon=True)
    pausing.start()
    assert not paused.wait(0.1)

    leave.set()

    assert paused.wait(LIMIT)


class LateRng(Rng):
    """Completes each request after *seconds*."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.asked, self.answered = threading.Event(), threading.Event()

    def handle(self, queue: int, chain: Chain) -> Deferred:
        self.runtime.later(self.seconds, lambda: self.answer(queue, chain))
        self.asked.set()
        return DEFERRED

    def answer(self, queue: int, chain: Chain) -> None:
        super().handle(queue, chain)
        self.answered.set()
        self.complete(queue, chain)


def test_guest_that_waits_for_a_late_request_when_paused_gets_it_after_what_was_left(
    still: Callable[..., Still], tmp_path: Path
) -> None:
    program = bytearray((BIN / "virtio_rng.bin").read_bytes())
    struct.pack_into("<3Q", program, PARAMETERS, 0xD000_0000, 1, 2)  # one request, whose end it polls for
    path = tmp_path / "one_request.bin"
    path.write_bytes(program)
    rng = LateRng(10)
    one = still(devices=[rng], firmware=str(path), memory="16M", timeout=60)
    one.machine.start()
    assert rng.asked.wait(LIMIT)
    one.move(7)
    one.machine.pause()
    one.move(1000)
    assert not rng.answered.is_set()

    one.machine.resume()
    one.move(2)
    assert not rng.answered.is_set()
    one.move(2)

    assert one.machine.wait().code == PASSED
    assert "ok virtio_rng" in one.console.text


def test_clock_when_paused_before_the_start_stands_still(still: Callable[..., Still]) -> None:
    one = still(timeout=60)
    one.machine.pause()
    one.machine.start()
    one.move(1000)
    assert one.machine.ending is None
    assert programs.count(one.machine) == 0

    one.machine.resume()
    moves_on(one.machine)


def test_devices_when_the_machine_goes_on_are_told_before_the_guest_runs(
    still: Callable[..., Still],
) -> None:
    class Told(Device):
        name = "told"
        counts: list[int] = []

        def resume(self) -> None:
            self.counts.append(programs.count(one.machine))

    one = still()
    one.machine.add_device(Told(), size=1)
    one.machine.start()
    moves_on(one.machine)
    one.machine.pause()
    before = programs.count(one.machine)

    one.machine.resume()

    assert Told.counts == [before]
    moves_on(one.machine)


def test_guest_with_kvm_clock_when_it_goes_on_is_told_that_it_was_stopped(tmp_path: Path) -> None:
    # wrmsr: MSR_KVM_SYSTEM_TIME_NEW becomes PVCLOCK and the enable bit.
    enable = (
        b"\x66\xb9" + (0x4B564D01).to_bytes(4, "little")
        + b"\x66\xb8" + (PVCLOCK | 1).to_bytes(4, "little")
        + b"\x66\x31\xd2\x0f\x30"
    )  # fmt: skip
    with programs.machine(tmp_path, enable + programs.COUNT) as machine:
        machine.start()
        moves_on(machine)
        assert not machine.memory.read_u8(PVCLOCK + PVCLOCK_FLAGS) & PVCLOCK_GUEST_STOPPED

        machine.pause()
        machine.resume()
        moves_on(machine)

        assert machine.memory.read_u8(PVCLOCK + PVCLOCK_FLAGS) & PVCLOCK_GUEST_STOPPED
