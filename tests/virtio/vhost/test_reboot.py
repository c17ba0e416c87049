"""A guest with a vhost-user device that reboots: the back end sees one connection."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.command import LIMIT, read_until, start

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

#: mov dx, 0x3fd; in al, dx; test al, 1; jz to the in; mov dx, 0x3f8; in al, dx: wait for a key.
KEY = bytes.fromhex("bafd03 ec a801 74fb baf803 ec")
PROGRAM = programs.outb(0x3F8, *b"boot\n") + KEY + programs.outb(0x64, 0xFE)


@pytest.fixture
def back_end(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with start("device", "rng", "--socket", str(tmp_path / "back")) as process:
        assert process.stderr is not None
        read_until(process.stderr, b"is served on")
        yield process
        process.kill()


def test_guest_that_reboots_has_its_back_end_again_and_says_when_there_is_none(
    tmp_path: Path, back_end: subprocess.Popen[bytes]
) -> None:
    with start(
        *("run", "--firmware", programs.rom(tmp_path, PROGRAM), "--on-reboot", "restart"),
        *("--vhost-user", f"{tmp_path / 'back'},type=rng", "--timeout", str(LIMIT)),
        stdin=subprocess.PIPE,
    ) as guest:
        assert guest.stdin is not None and guest.stdout is not None
        for _ in range(3):
            read_until(guest.stdout, b"boot\n")
            guest.stdin.write(b"x")
            guest.stdin.flush()
        read_until(guest.stdout, b"boot\n")
        back_end.terminate()
        assert back_end.wait(LIMIT) == 0
        _, said = guest.communicate(b"x", timeout=LIMIT)

    assert b"start the back end first" in said
    assert guest.returncode == 64, said


def test_guest_that_reboots_keeps_its_connection(tmp_path: Path, back_end: subprocess.Popen[bytes]) -> None:
    """The back end's socket is gone after the first boot has connected to it."""
    with start(
        *("run", "--firmware", programs.rom(tmp_path, PROGRAM), "--on-reboot", "restart"),
        *("--vhost-user", f"{tmp_path / 'back'},type=rng", "--timeout", str(LIMIT)),
        stdin=subprocess.PIPE,
    ) as guest:
        assert guest.stdin is not None and guest.stdout is not None
        read_until(guest.stdout, b"boot\n")
        (tmp_path / "back").unlink()
        for _ in range(2):
            guest.stdin.write(b"x")
            guest.stdin.flush()
            read_until(guest.stdout, b"boot\n")
        guest.terminate()
        _, said = guest.communicate(timeout=LIMIT)

    assert guest.returncode == 3, said
