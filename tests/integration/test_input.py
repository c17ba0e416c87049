"""Input that comes before Linux listens reaches the shell; a guest that halts has an ending of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.linux import LIMIT

pytestmark = [pytest.mark.hw, pytest.mark.timeout(LIMIT + 30)]

#: More than any buffer of the guest's driver; an emulated host takes a second for 2 KB through a serial port.
MUCH = {"serial": 4096, "hvc": 100 << 10}


@pytest.mark.parametrize("console", ["serial", "hvc"])
def test_input_that_is_there_from_the_start_is_all_the_shells_and_halt_ends_the_guest(
    console: str, tmp_path: Path
) -> None:
    line = b": 456789 123456789 123456789 123456789 123456789 123456789 123\n"
    stdin = b"echo A-%s-Z\n" % b"0123456789"[:10] + line * (MUCH[console] // len(line))
    stdin += b"echo B-$((40 + 2))-Z\nhalt -f\n"
    result = tmp_path / "result"
    options = ["--hvc", "stdio"] if console == "hvc" else []

    done = subprocess.run(
        [sys.executable, "-m", "pyvmm", "run", "--timeout", str(LIMIT), "--result", str(result), *options],
        input=stdin,
        capture_output=True,
        timeout=LIMIT + 20,
        check=False,
    )

    said = done.stdout.replace(b"\r\n", b"\n")
    assert b"\nA-0123456789-Z\n" in said, done
    assert b"\nB-42-Z\n" in said, done
    assert (done.returncode, json.loads(result.read_text())["reason"]) == (8, "halt"), done
