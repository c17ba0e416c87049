"""exit: what a port write costs that a Python device method handles, on this machine's KVM.

``firmware/x86_64/bin/io_loop.bin`` writes a port again and again. Three programs run it, each in a process
pinned to the same CPU: pyvmm's Machine, a bare KVM_RUN loop in Python, a loop in C. Nanoseconds
per write, from the first to the last.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from functools import partial
from pathlib import Path

import installed
from common import BENCH, FIRMWARE, Row, SkippedError, interleave, pairs_row, program, progress

from pyvmm.images import cache

WRITES = 20_000
PYTHON_TARGET = 1.3
C_TARGET = 1.8
LIMIT = 120.0


def measure(options: argparse.Namespace) -> list[Row]:
    python = str(installed.environment(progress) / "bin" / "python")
    commands = {
        "pyvmm": [python, "-I", str(BENCH / "exit" / "machine_loop.py")],
        "python loop": [python, "-I", str(BENCH / "exit" / "peers" / "bare_loop.py")],
        "c loop": [str(_c_loop())],
    }
    runs = {name: partial(_nanoseconds, command) for name, command in commands.items()}
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})  # for the processes started below
    try:
        times = interleave(runs, options.pairs, progress)
    finally:
        os.sched_setaffinity(0, allowed)
    return [
        pairs_row("port write", "ns", times["pyvmm"], name, times[name], target)
        for name, target in (("python loop", PYTHON_TARGET), ("c loop", C_TARGET))
    ]


def notes(options: argparse.Namespace) -> list[str]:
    return [f"{WRITES} writes a round, all pinned to one CPU"]


def _nanoseconds(command: list[str]) -> float:
    arguments = [*command, str(FIRMWARE / "io_loop.bin"), str(WRITES)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode:
        raise SkippedError(f"{command[-1]} failed: {done.stderr.strip()}")
    return float(done.stdout)


def _c_loop() -> Path:
    """The C peer, compiled into the cache where it is newer than the program there."""
    source, binary = BENCH / "exit" / "peers" / "kvm_loop.c", cache.directory() / "bench-kvm_loop"
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        compiler = program("cc", "gcc")
        binary.parent.mkdir(parents=True, exist_ok=True)
        made = binary.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-O2", "-o", str(made), str(source)], check=True)
        made.replace(binary)
    return binary
