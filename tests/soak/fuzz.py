"""Programs of a hostile driver against every virtio device, guided by coverage where atheris is installed."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.mutation import kept, mutated
from tests.fuzz.targets import DEVICES, Target

ROOT = Path(__file__).resolve().parents[2]


def run(seconds: float, seed: int) -> str:
    """Fuzz every target, each for its part of *seconds*."""
    guided = importlib.util.find_spec("atheris") is not None
    programs = chains = 0
    for name in DEVICES:
        work = guided_by_coverage if guided else by_chance
        done, completed = work(name, seconds / len(DEVICES), seed)
        print(f"{name}: {done} programs, {completed} chains", flush=True)
        programs += done
        chains += completed
    how = "guided by coverage" if guided else "by chance"
    return f"{len(DEVICES)} devices {how}: {programs} programs, {chains} chains, no defect"


def by_chance(name: str, seconds: float, seed: int) -> tuple[int, int]:
    """Mutations of the kept programs; how many programs ran, and chains were completed."""
    target, rng = Target(name), random.Random(seed)
    programs = kept(name) or [b""]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        program = mutated(rng, rng.choice(programs), rng.choice(programs))
        try:
            target(program)
        except Exception as error:
            raise AssertionError(
                f"{name}: {error!r} by bytes.fromhex({program.hex()!r}), seed {seed}"
            ) from error
    return target.programs, target.oracle.chains


def guided_by_coverage(name: str, seconds: float, seed: int) -> tuple[int, int]:
    """The same by ``scripts/fuzz``, which writes a program that fails into the current folder."""
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
