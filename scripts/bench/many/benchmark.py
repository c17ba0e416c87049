"""many: 200 VMs made, run and closed in one process; what it holds more than after the first 200."""

from __future__ import annotations

import argparse
import json
import subprocess

import installed
from common import BENCH, FIRMWARE, Row, SkippedError, progress

WARM_UP = 200
COUNT = 200
#: The allocator's and the interpreter's own noise, in KiB: 5 a VM would be a leak.
RESIDENT_NOISE = 1024
LIMIT = 300.0


def measure(options: argparse.Namespace) -> list[Row]:
    python = str(installed.environment(progress) / "bin" / "python")
    progress(f"{WARM_UP} + {COUNT} VMs")
    command = [
        python,
        "-I",
        str(BENCH / "many" / "vms.py"),
        str(FIRMWARE / "exit.bin"),
        str(WARM_UP),
        str(COUNT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode:
        raise SkippedError(f"many_vms.py failed: {done.stderr.strip()}")
    told = json.loads(done.stdout)
    limits = {"fds": 0, "threads": 0, "mappings": None, "resident": RESIDENT_NOISE}
    rows = [
        Row(f"{name} more ({told['before'][name]} before)", "KiB" if name == "resident" else "",
            told["after"][name] - told["before"][name], target=limit)
        for name, limit in limits.items()
    ]  # fmt: skip
    return [*rows, Row("made, run and closed, each", "ms", told["ms"])]


def notes(options: argparse.Namespace) -> list[str]:
    return [f"{COUNT} VMs of 256 MiB after {WARM_UP} to warm up, in one process"]
