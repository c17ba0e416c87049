"""A Linux guest whose `pyvmm run` is asked to end shuts down by itself where the user wants that."""

from __future__ import annotations

import subprocess

import pytest

from pyvmm.images.default import default_guest
from tests.support.command import read_until, start

pytestmark = [pytest.mark.hw, pytest.mark.timeout(300)]


def test_guest_shuts_down_by_its_power_button() -> None:
    default_guest()  # fetched before the clock runs
    with start(
        *("run", "--stop-with", "button,100s", "--cmdline", "console=ttyS0 quiet", "--timeout", "200"),
        stdin=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(b"echo up$((4 + 5))\n")
            process.stdin.flush()
            read_until(process.stdout, b"up9")
            process.terminate()
            _, said = process.communicate(timeout=150)
        finally:
            process.kill()
    assert (process.returncode, said) == (0, b"")
