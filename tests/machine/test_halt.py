"""A guest that has halted for good is noticed; one that waits, or works, is left alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import pyvmm
from pyvmm.machine.ending import HALTED, INFERRED
from tests.support import programs
from tests.support.firmware_guest import BIN, WATCHDOG, guest

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]

#: cli; hlt; jmp to the hlt
DEAD = bytes.fromhex("fa f4 ebfd")
#: Seconds until it must have been noticed, on a host that is busy with other things.
SOON = 5.0


@pytest.mark.parametrize("cpus", [1, 3])
def test_guest_that_halts_with_interrupts_off_ends_at_once(tmp_path: Path, cpus: int) -> None:
    machine = guest(tmp_path, "halt.bin", cpus=cpus)

    begin = time.monotonic()
    ending = machine.run()

    assert (ending.code, ending.reason, ending.known) == (HALTED, "halt", INFERRED)
    assert time.monotonic() - begin < SOON
    assert bytes(machine.console.data) == b"halting\n"


def test_guest_that_halts_after_much_work_ends_at_once(tmp_path: Path) -> None:
    # mov ecx, 0x200000; loop to itself by ecx
    work = bytes.fromhex("66b900002000 67e2fd")
    machine = programs.machine(tmp_path, work + DEAD)

    assert machine.run().reason == "halt"


@pytest.mark.parametrize("name", ["hlt", "spin"])
def test_guest_that_may_go_on_is_left_alone(tmp_path: Path, name: str) -> None:
    ending = guest(tmp_path, f"{name}.bin", timeout=2.5).run()  # some ten looks

    assert ending.reason == "timeout"


def test_guest_that_waits_for_input_is_left_alone_and_gets_it() -> None:
    with pyvmm.Guest(firmware=str(BIN / "echo.bin"), memory="16M", timeout=WATCHDOG) as guest:
        guest.console.expect(r"ready\n", WATCHDOG)
        with pytest.raises(pyvmm.GuestTimeout):
            guest.wait(1.5)  # some looks

        guest.console.send("on")

        guest.console.expect("on", WATCHDOG)


def test_guest_that_halts_during_a_pause_is_noticed_after_it(tmp_path: Path) -> None:
    with programs.machine(tmp_path, DEAD) as machine:
        machine.pause()
        machine.start()
        time.sleep(0.6)  # more than a tick and a round
        assert machine.ending is None

        machine.resume()

        assert machine.wait().reason == "halt"
