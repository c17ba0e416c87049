"""The log of an emulated host."""

from __future__ import annotations

import subprocess
import sys

from pyvmm.lab.log import remove

PROGRAM = """
import subprocess, sys
from pathlib import Path
from pyvmm.lab.log import Log
log = Log(Path(sys.argv[1]), limit=100_000)
print("keeper")
sys.stdout.flush()
subprocess.run(["sh", "-c", "yes line | head -c 1000000; echo guest; echo error >&2"], check=True)
print("last")
log.close()
print("not in the log")
"""


def test_log_when_a_guest_prints_without_end_keeps_its_last_lines_within_the_limit(tmp_path):
    path = tmp_path / "machine.log"
    subprocess.run([sys.executable, "-c", PROGRAM, str(path)], check=True, timeout=60)
    before = tmp_path / "machine.log.1"

    assert path.read_text().endswith("line\nguest\nerror\nlast\n")
    assert path.stat().st_size <= 100_000
    assert 0 < before.stat().st_size <= 100_000
    assert {each.name for each in tmp_path.iterdir()} == {"machine.log", "machine.log.1"}
    remove(path)
    assert list(tmp_path.iterdir()) == []
