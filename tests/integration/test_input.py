"""Input that comes before Linux listens reaches the shell; a guest that halts has an ending of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.linux import LIMIT

pytestmark = [pytest.mark.hw, pytest.mark.timeout(LIMIT + 30)]

#: Lines that are typed ahead. An emulated host takes half a second for each through a serial port.
LINES = {"serial": 20, "hvc": 20}


@pytest.mark.parametrize("console", ["serial", "hvc"])
def test_input_that_is_there_from_the_start_is_all_the_shells_and_halt_ends_the_guest(
    console: str, tmp_path: Path
) -> None:
    lines = LINES[console]
    number = 1
    for _ in range(lines):
        number = (number * 3 + 7) % 1000003
    stdin = b"n=1\n" + b"n=$(((n * 3 + 7) % 1000003))\n" * lines + b"echo sum-$n-\nhalt -f\n"
    result = tmp_path / "result"
    # By its name, the console is a port of which the driver says when it has opened it.
    options = ["--hvc", "stdio,name=shell"] if console == "hvc" else []

    done = subprocess.run(
        [sys.executable, "-m", "pyvmm", "run", "--timeout", str(LIMIT), "--result", str(result), *options],
        input=stdin,
        capture_output=True,
        timeout=LIMIT + 20,
        check=False,
    )

    assert b"sum-%d-" % number in done.stdout, done
    assert (done.returncode, json.loads(result.read_text())["reason"]) == (8, "halt"), done
