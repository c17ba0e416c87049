"""A campaign in a process of its own: ``python -m MODULE SECONDS ROUNDS SEED``, its result the last line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Rounds of a campaign that goes on until its time is over.
ENDLESS = 1_000_000_000


def run(module: str, seconds: float, rounds: int, seed: int) -> str:
    """At most *rounds* rounds within *seconds*; their result. Raises AssertionError for a finding."""
    words = [sys.executable, "-m", module, f"{seconds:g}", str(rounds), str(seed)]
    last = ""
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = line.rstrip("\n")
            print(last, flush=True)
    assert process.returncode == 0, last
    return last


def main(campaign: Callable[[float, int, int], str]) -> int:
    """The other half: run *campaign* with what this process was called with, and print its result."""
    seconds, rounds, seed = sys.argv[1:]
    try:
        print(campaign(float(seconds), int(rounds), int(seed)), flush=True)
    except AssertionError as error:
        print(" ".join(str(error).split()), flush=True)
        return 1
    return 0
