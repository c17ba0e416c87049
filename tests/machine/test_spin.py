"""A guest whose kernel has panicked and stays, with no console and no pvpanic: its log is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.machine import kernel_log, spin
from pyvmm.machine.ending import CRASHED, INFERRED
from pyvmm.machine.kernel_log import END, PANIC
from tests.support import programs
from tests.support.kernel_log import PrintkLog

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(90)]

MIB = 1 << 20
#: jmp to itself
SPIN = bytes.fromhex("ebfe")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spin, "TICK", 0.05)
    monkeypatch.setattr(kernel_log, "BUDGET", 10.0)  # whatever else the host does


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What guest memory was searched for."""
    found: list[bytes] = []
    real = kernel_log.find_panic

    def find_panic(memory, code=None, text=PANIC, data=()):  # type: ignore[no-untyped-def]
        found.append(text)
        return real(memory, code, text, data)

    monkeypatch.setattr(kernel_log, "find_panic", find_panic)
    return found


def test_kernel_that_spins_after_a_panic_that_nothing_told_ends_by_its_log(tmp_path: Path) -> None:
    with programs.machine(tmp_path, SPIN, memory="64M", timeout=60) as machine:
        log = PrintkLog(machine.memory, 8 * MIB, 4 * MIB, 0, 1 << 12)
        log.add(PANIC + b"no init")
        log.add(END + b"no init ]---")

        ending = machine.run()

    assert (ending.code, ending.reason, ending.known) == (CRASHED, "panic", INFERRED), ending
    assert "---[ end Kernel panic - not syncing: no init ]---" in ending.detail


def test_kernel_that_spins_and_has_not_panicked_goes_on(tmp_path: Path, searches: list[bytes]) -> None:
    """The log has no last line of a panic but what a program wrote to /dev/kmsg."""
    with programs.machine(tmp_path, SPIN, memory="64M", timeout=4) as machine:
        log = PrintkLog(machine.memory, 8 * MIB, 4 * MIB, 0, 1 << 12)
        log.add(END + b"of another kernel ]---", facility=1)
        log.add(PANIC + b"no init")

        ending = machine.run()

    assert ending.reason == "timeout"
    assert set(searches) == {END}


def test_guest_that_waits_is_not_searched(tmp_path: Path, searches: list[bytes]) -> None:
    with programs.machine(tmp_path, programs.HALT, memory="64M", timeout=3) as machine:
        ending = machine.run()

    assert ending.reason == "timeout"
    assert not searches
