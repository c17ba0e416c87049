"""The record of how a guest ended."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from pyvmm.machine.ending import CRASHED, INFERRED, OK, STOPPED, TOLD, Ending, debug_exit
from pyvmm.machine.machine import Machine
from tests.support import programs
from tests.support.firmware_guest import Transcript
from tests.support.kernel_log import PrintkLog


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


PANIC = b"Kernel panic - not syncing: test\n"
END = b"---[ end Kernel panic - not syncing: test ]---\n"
PVPANIC = 0x505
RESET = programs.outb(0x64, 0xFE)
FOREVER = b"\xeb\xfe"
#: Where the test puts a text for the guest to print.
TEXT = 0x2000


def printed(text: bytes) -> bytes:
    """The code that prints *text*, which is at TEXT."""
    return programs.string_io(programs.OUTSB, 0x3F8, TEXT, len(text))


def write_record(machine: Machine, text: bytes) -> None:
    """A record of the kernel's log as Linux keeps it, with its descriptor, in the machine's memory."""
    PrintkLog(machine.memory, 0x10_0000, 0x18_0000, 0, 4096).add(text.rstrip())


@pytest.mark.kvm
def test_panic_that_a_program_prints_is_not_believed(tmp_path: Path) -> None:
    machine = programs.machine(tmp_path, printed(PANIC + END) + RESET)
    machine.memory.write(TEXT, PANIC + END)

    ending = machine.run()

    assert (ending.code, ending.reason, ending.known) == (OK, "reboot", TOLD)


@pytest.mark.kvm
def test_guest_that_prints_the_end_of_a_panic_and_goes_on_is_let_go_on(tmp_path: Path) -> None:
    # loop forever: print, and count
    text = END * 20
    code = printed(text) + bytes.fromhex("66ff060010")
    code += b"\xe9" + struct.pack("<h", -len(code) - 3)
    machine = programs.machine(tmp_path, code, timeout=2.5)
    machine.memory.write(TEXT, text)

    assert machine.run().reason == "timeout"


@pytest.mark.kvm
def test_reset_of_a_kernel_whose_log_has_a_panic_is_one_though_no_console_showed_it(tmp_path: Path) -> None:
    machine = programs.machine(tmp_path, RESET)
    write_record(machine, PANIC)

    ending = machine.run()

    assert (ending.code, ending.reason, ending.known) == (CRASHED, "panic", INFERRED)
    assert ending.detail == "the log of the guest's kernel says: Kernel panic - not syncing: test"
    assert machine.log.text() == ""


@pytest.mark.kvm
def test_kernel_that_has_panicked_and_is_to_stay_ends_when_console_and_log_say_so(tmp_path: Path) -> None:
    machine = programs.machine(tmp_path, printed(END) + FOREVER)
    machine.memory.write(TEXT, END)
    write_record(machine, END)

    ending = machine.run()

    assert (ending.code, ending.reason, ending.known) == (CRASHED, "panic", INFERRED)
    assert "not syncing: test" in ending.detail


@pytest.mark.kvm
@pytest.mark.parametrize("after", [RESET, programs.outb(0x600, 0x34), b"\xfa\xf4\xeb\xfd"])
@pytest.mark.parametrize("events", [1, 2, 0xFF])
def test_panic_that_the_kernel_tells_of_is_the_ending_whatever_comes_last(
    tmp_path: Path, events: int, after: bytes
) -> None:
    code = printed(PANIC) + programs.outb(PVPANIC, events) + after
    machine = programs.machine(tmp_path, code)
    machine.memory.write(TEXT, PANIC)

    ending = machine.run()

    assert (ending.code, ending.reason, ending.known) == (CRASHED, "panic", TOLD)
    assert ending.detail == "the guest's kernel told of its panic: Kernel panic - not syncing: test"


@pytest.mark.kvm
def test_panic_that_the_kernel_tells_of_ends_with_its_last_line(tmp_path: Path) -> None:
    text = PANIC + b"a long dump\n" * 200 + END
    console = Transcript()
    machine = programs.machine(tmp_path, programs.outb(PVPANIC, 1) + printed(text) + FOREVER, console)
    machine.memory.write(TEXT, text)

    ending = machine.run()

    assert (ending.code, ending.reason, ending.known) == (CRASHED, "panic", TOLD)
    assert console.data == text


@pytest.mark.kvm
@pytest.mark.parametrize(("events", "reason"), [(1, "panic"), (2, "timeout"), (0xFC, "timeout")])
def test_kernel_that_told_of_its_panic_and_is_silent_ends_unless_a_crash_kernel_goes_on(
    tmp_path: Path, events: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyvmm.machine.reports.SILENCE", 0.1)
    machine = programs.machine(tmp_path, programs.outb(PVPANIC, events) + FOREVER, timeout=1.5)

    assert machine.run().reason == reason


@pytest.mark.kvm
def test_register_for_panics_gives_the_events_that_it_understands(tmp_path: Path) -> None:
    machine = programs.machine(tmp_path, programs.inb(PVPANIC) + bytes.fromhex("ba0105 ee"))

    assert machine.run().code == 32 + 3
