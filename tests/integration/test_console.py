"""COM1 from a guest: every byte arrives, in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.firmware_guest import PASSED, Transcript, guest, passes

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]


def test_flood_when_written_by_string_output_arrives_whole(tmp_path: Path) -> None:
    size = 16 << 10
    line = bytes(ord("A") + i % 26 for i in range(63)) + b"\n"
    machine = guest(tmp_path, "flood.bin", size)

    passes(machine, "ok flood")

    assert machine.console.data == line * (size // 64) + b"ok flood\n"


def test_echo_when_fed_by_interrupts_gives_every_byte_back(tmp_path: Path) -> None:
    text = b"The quick brown fox jumps over the lazy dog. " * 20
    console = Transcript(answers=[(b"ready\n", text[:16]), (text[:16], text[16:32]), (text[:32], b"\4")])
    machine = guest(tmp_path, "echo.bin", console=console)

    ending = machine.run()

    assert ending.code == PASSED
    assert console.data == b"ready\n" + text[:32] + b"ok echo\n"
