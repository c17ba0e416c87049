"""Input that comes before Linux listens reaches the shell; a guest that halts has an ending of its own."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.linux import LIMIT
from tests.support.native import CONSOLE

pytestmark = [pytest.mark.hw, pytest.mark.timeout(LIMIT + 30)]

#: Lines that are typed ahead. An emulated host takes half a second for each through a serial port.
LINES = 20
#: What a program reads after the shell: 100 KiB by hvc in a second. By a serial port it takes minutes.
BULK = {"serial": b"", "hvc": b"".join(b"%063d\n" % line for line in range(1600))}


@pytest.mark.parametrize("console", ["serial", "hvc"])
def test_input_that_is_there_from_the_start_is_all_the_shells_and_halt_ends_the_guest(
    console: str, tmp_path: Path
) -> None:
    number = 1
    for _ in range(LINES):
        number = (number * 3 + 7) % 1000003
    bulk = BULK[console]
    stdin = b"n=1\n" + b"n=$(((n * 3 + 7) % 1000003))\n" * LINES + b"echo sum-$n-\n"
    stdin += b"stty -echo; head -c %d | md5sum; halt -f\n" % len(bulk) + bulk
    result = tmp_path / "result"
    port = "hvc0" if console == "hvc" else CONSOLE
    options = ["--cmdline", f"console={port} quiet panic=-1"]
    options += ["--hvc", "stdio"] if console == "hvc" else []

    done = subprocess.run(
        [sys.executable, "-m", "pyvmm", "run", "--timeout", str(LIMIT), "--result", str(result), *options],
        input=stdin,
        capture_output=True,
        timeout=LIMIT + 20,
        check=False,
    )

    assert b"sum-%d-" % number in done.stdout, done
    assert hashlib.md5(bulk).hexdigest().encode() in done.stdout, done
    assert (done.returncode, json.loads(result.read_text())["reason"]) == (8, "halt"), done
