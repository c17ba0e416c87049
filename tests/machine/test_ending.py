"""The record of how a guest ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyvmm.machine.ending import CRASHED, INFERRED, STOPPED, Ending, debug_exit
from tests.support import programs
from tests.support.firmware_guest import Transcript


def test_record_has_every_field_and_is_json() -> None:
    ending = Ending(CRASHED, "panic", INFERRED, "it said: \N{SNOWMAN}\n")

    record = ending.record()

    assert record == {"code": 7, "reason": "panic", "known": "inferred", "detail": "it said: \N{SNOWMAN}\n"}
    assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize(("value", "code"), [(0, 32), (31, 63), (32, 32), (255, 63)])
def test_debug_exit_has_32_and_the_low_five_bits(value: int, code: int) -> None:
    ending = debug_exit(value)

    assert (ending.code, ending.known) == (code, "told")
    assert f"{value:#x}" in ending.detail


@pytest.mark.kvm
def test_timeout_when_it_comes_ends_with_code_3_and_the_time(tmp_path: Path) -> None:
    ending = programs.machine(tmp_path, programs.COUNT, timeout=0.05).run()

    assert (ending.code, ending.reason) == (STOPPED, "timeout")
    assert "0.05 seconds" in ending.detail


@pytest.mark.kvm
@pytest.mark.parametrize("after", [programs.HALT, programs.outb(0x64, 0xFE)], ids=["hangs", "reboots"])
def test_panic_when_on_the_console_ends_as_a_crash(
    tmp_path: Path, after: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyvmm.machine.reports.PANIC_GRACE", 0.1)
    text = b"Kernel panic - not syncing: test\n"
    code = programs.string_io(programs.OUTSB, 0x3F8, 0x2000, len(text)) + after
    machine = programs.machine(tmp_path, code, Transcript())
    machine.memory.write(0x2000, text)

    ending = machine.run()

    assert (ending.code, ending.reason, ending.known) == (CRASHED, "panic", INFERRED)
    assert "not syncing: test" in ending.detail
