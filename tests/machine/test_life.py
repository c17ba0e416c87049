"""From building to closing: what is released, who ends first, how long stopping takes."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyvmm.arch import native
from pyvmm.config import Config
from pyvmm.errors import ConfigError, PyvmmError, StartError
from pyvmm.loop import Loop
from pyvmm.machine.ending import GUEST_FIRST, OK, STOPPED, TOLD, Ending
from pyvmm.machine.machine import Machine
from pyvmm.machine.vcpu import VcpuThread
from pyvmm.memory.errors import HostMemoryError
from tests.conftest import INSIDE_LAB
from tests.support import process, programs
from tests.support.firmware_guest import BIN, WATCHDOG, Transcript, guest

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

EXIT = str(BIN / "exit.bin")
LIMIT = 20.0
#: An emulated host takes half a second for one.
MANY = 30 if INSIDE_LAB else 200


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)  # between two looks


@pytest.mark.parametrize(("name", "words"), [("spin", b"spinning"), ("hlt", b"halting")])
def test_stop_when_the_guest_never_exits_takes_less_than_100_ms(
    tmp_path: Path, name: str, words: bytes
) -> None:
    took = []
    for _ in range(7):
        machine = guest(tmp_path, f"{name}.bin")
        machine.machine.start()
        machine.console.wait_for(words)

        begin = time.monotonic()
        machine.machine.stop()
        machine.machine.wait()
        took.append(time.monotonic() - begin)

    assert statistics.median(took) < 0.1, took


def test_end_when_called_by_several_at_once_keeps_the_first(tmp_path: Path) -> None:
    machine = programs.machine(tmp_path, programs.COUNT, cpus=2)
    machine.start()
    barrier = threading.Barrier(8)
    kept = []

    def end(number: int) -> None:
        barrier.wait(LIMIT)
        machine.end(Ending(OK, f"number {number}", TOLD))
        kept.append(machine.ending)

    threads = [threading.Thread(target=end, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)

    ending = machine.wait()
    assert len(kept) == 8 and all(each is ending for each in kept)


def test_end_when_the_guest_ended_already_changes_nothing(tmp_path: Path) -> None:
    machine = programs.machine(tmp_path, programs.PASS)
    ending = machine.run()

    machine.stop()

    assert machine.ending is ending
    assert ending.code == GUEST_FIRST


def test_close_when_running_stops_the_guest_and_gives_all_back(tmp_path: Path) -> None:
    gc.collect()  # what earlier tests left must not be freed in between
    before = process.descriptors(), process.threads()
    machine = programs.machine(tmp_path, programs.COUNT, cpus=2)
    machine.start()
    assert process.threads() > before[1]

    machine.close()
    machine.close()

    assert machine.ending is not None and machine.ending.code == STOPPED
    until(lambda: process.threads() == before[1])
    assert process.descriptors() == before[0]


def test_close_when_called_by_several_at_once_closes_once(tmp_path: Path) -> None:
    for _ in range(10):
        machine = programs.machine(tmp_path, programs.COUNT)
        machine.start()
        closers = [threading.Thread(target=machine.close, daemon=True) for _ in range(3)]
        for closer in closers:
            closer.start()

        assert machine.wait().code == STOPPED

        for closer in closers:
            closer.join(LIMIT)
            assert not closer.is_alive()


def test_close_when_another_thread_runs_the_loop_waits_for_it(tmp_path: Path) -> None:
    machine = programs.machine(tmp_path, programs.COUNT)
    endings = []
    runner = threading.Thread(target=lambda: endings.append(machine.run()), daemon=True)
    runner.start()
    until(lambda: programs.count(machine) > 0)

    machine.close()

    runner.join(LIMIT)
    assert [ending.code for ending in endings] == [STOPPED]


def test_close_when_a_device_raises_closes_the_others_and_says_so(tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("broken while closing")

    before = process.descriptors()
    machine = programs.machine(tmp_path, programs.PASS)
    machine.at_end(fail)

    with pytest.raises(ValueError, match="broken while closing"):
        machine.run()

    assert process.descriptors() == before


def test_start_when_running_already_is_refused_and_wait_still_ends(tmp_path: Path) -> None:
    with programs.machine(tmp_path, programs.COUNT) as machine:
        machine.start()
        with pytest.raises(PyvmmError, match="runs once"):
            machine.start()
        machine.stop()

        assert machine.wait().code == STOPPED


def test_run_when_ended_already_is_refused(tmp_path: Path) -> None:
    machine = programs.machine(tmp_path, programs.PASS)
    machine.run()

    with pytest.raises(PyvmmError, match="runs once"):
        machine.run()


def test_interrupt_from_the_keyboard_when_running_reaches_the_caller_after_closing(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    before = process.descriptors()
    machine = programs.machine(tmp_path, programs.COUNT)
    machine.loop.call_soon(interrupt)

    with pytest.raises(KeyboardInterrupt):
        machine.run()

    assert process.descriptors() == before


def test_loop_of_the_caller_when_machines_ran_in_it_has_no_timer_of_theirs(tmp_path: Path) -> None:
    # A clock interrupt every 2 ms asked of the RTC: register B is 0x40, periodic.
    rtc = programs.outb(0x70, 0x0B) + programs.outb(0x71, 0x42)
    with Loop() as loop:
        for _ in range(3):
            config = Config(firmware=programs.rom(tmp_path, rtc + programs.PASS), memory="1M", timeout=1)
            ending = Machine(config, loop=loop, console=Transcript()).run()
            assert ending.code == GUEST_FIRST

        begin = time.monotonic()
        while time.monotonic() - begin < 1.1:  # the time a timeout or a tick would need
            assert loop.run_once(0.02) == 0


def test_machine_when_the_host_gives_no_thread_says_so_and_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = process.descriptors()
    machine = programs.machine(tmp_path, programs.COUNT, cpus=2)
    start, started = VcpuThread.start, []

    def refuse(function: object, arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    def second_fails(self: VcpuThread) -> None:
        if started:
            monkeypatch.setattr("_thread.start_new_thread", refuse)
        started.append(self)
        start(self)

    monkeypatch.setattr(VcpuThread, "start", second_fails)
    with machine, pytest.raises(StartError, match="no thread to vCPU 1"):
        machine.start()

    assert process.descriptors() == before


def too_much_ram() -> tuple[type[Exception], str]:
    """How 64T of RAM are refused here: KVM without nested paging has no memory for its lists of them."""
    try:
        native.chips.check_ram(64 << 40)
    except HostMemoryError:
        return HostMemoryError, "67108864M of guest memory"
    return ConfigError, "ram 0"


@pytest.mark.parametrize(
    ("keys", "kvm_path", "error", "sentence"),
    [
        ({"console": "file:/nowhere/at/all"}, "/dev/kvm", StartError, "/nowhere/at/all"),
        ({"console": "socket:/nowhere/at/all"}, "/dev/kvm", StartError, "/nowhere/at/all"),
        ({"console": "parrot"}, "/dev/kvm", ConfigError, "parrot"),
        ({"firmware": "/nowhere/rom.bin"}, "/dev/kvm", StartError, "/nowhere/rom.bin"),
        ({"firmware": "/etc"}, "/dev/kvm", StartError, "/etc is a directory"),
        ({"memory": "64T"}, "/dev/kvm", *too_much_ram()),
        ({"memory": [{"size": "1M"}, {"size": "2M", "backing": "file", "path": "/nowhere"}]}, "/dev/kvm",
         StartError, "/nowhere"),
        ({"memory": [{"size": "1M"}, {"size": "1M", "backing": "hugetlb"}]}, "/dev/kvm",
         ConfigError, "0x100000"),
        ({"cpu": "host,-nonsense"}, "/dev/kvm", ConfigError, "nonsense"),
        ({"debug_exit": 0x3F8}, "/dev/kvm", ConfigError, "COM1"),
        ({}, "/nowhere/kvm", StartError, "/nowhere/kvm"),
        ({}, "/dev/null", StartError, "not KVM's device"),
        ({}, "/dev", StartError, "/dev"),
    ],
)  # fmt: skip
def test_machine_when_it_cannot_be_built_leaves_nothing(
    keys: dict[str, Any], kvm_path: str, error: type[Exception], sentence: str
) -> None:
    config = Config(**{"firmware": EXIT, "console": "none", "memory": "1M", **keys})
    gc.collect()
    before = process.descriptors(), process.threads()

    with pytest.raises(error) as caught:
        Machine(config, kvm_path=kvm_path)

    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (process.descriptors(), process.threads()) == before


def test_many_machines_when_run_one_after_the_other_leave_nothing_behind() -> None:
    def one() -> None:
        config = Config(firmware=EXIT, console="none", memory="16M", timeout=WATCHDOG)
        assert Machine(config).run().code == GUEST_FIRST

    for _ in range(MANY // 10):
        one()
    gc.collect()
    before = process.descriptors(), process.threads()
    resident = process.resident()

    for _ in range(MANY):
        one()

    gc.collect()
    until(lambda: process.threads() <= before[1])
    assert process.descriptors() == before[0]
    assert process.resident() - resident < 2 << 20  # some of the allocator's own slack
