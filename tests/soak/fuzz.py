"""Programs of a hostile driver against every virtio device, guided by coverage."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import found
from tests.fuzz.guide import Guide
from tests.fuzz.mutation import kept, mutated
from tests.fuzz.targets import DEVICES, Target

ROOT = Path(__file__).resolve().parents[2]


def run(seconds: float, seed: int) -> str:
    """Fuzz every target, each for its part of *seconds*."""
    work = in_python if importlib.util.find_spec("atheris") is None else by_atheris
    programs = chains = 0
    for name in DEVICES:
        done, completed = work(name, seconds / len(DEVICES), seed)
        print(f"{name}: {done} programs, {completed} chains", flush=True)
        programs += done
        chains += completed
    return f"{len(DEVICES)} devices: {programs} programs, {chains} chains, no defect"


def in_python(name: str, seconds: float, seed: int) -> tuple[int, int]:
    """Guided by ``tests/fuzz/guide.py``; how many programs ran, and chains were completed."""
    target = Target(name)
    guide = Guide(target, [*kept(name), *found.inputs(name)], mutated)
    try:
        guide.run(seconds, random.Random(seed))
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}, seed {seed}") from error
    found.keep(name, guide.inputs)
    print(f"{name}: {len(guide.seen)} arcs by {len(guide.inputs)} programs", flush=True)
    return target.programs, target.oracle.chains


def by_atheris(name: str, seconds: float, seed: int) -> tuple[int, int]:
    """By ``scripts/fuzz``, which writes a program that fails into the current folder."""
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        tally = Path(folder) / "tally"
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "fuzz"), name, "--seconds", str(max(1, int(seconds)))],
            env={**os.environ, "PYVMM_FUZZ_TALLY": str(tally)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        numbers = re.findall(r"\d+", tally.read_text()) if tally.exists() else ["0", "0"]
    return int(numbers[0]), int(numbers[1])
