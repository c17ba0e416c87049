"""A Linux guest is paused for a minute, again and again: its watchdogs report nothing."""

from __future__ import annotations

import random
import time

from tests.support.paused import IMPATIENT, Paused
from tests.support.shell import Shell

#: Seconds of a pause at most, and of the first one: three times what a soft lockup takes by default.
LONGEST = 60.0


def run(seconds: float, seed: int) -> str:
    """Pause one guest for *seconds* and at least once, each time for up to a minute as *seed* gives.

    Raises AssertionError when the guest's kernel reports one.
    """
    end, moment, pauses = time.monotonic() + seconds, random.Random(seed), list[float]()
    shell = Shell([], cmdline=IMPATIENT, watchdog=seconds + 600)
    try:
        while not pauses or time.monotonic() < end:
            pauses.append(moment.uniform(2, LONGEST) if pauses else LONGEST)
            paused = Paused(shell, pauses[-1])
            print(
                f"paused for {pauses[-1]:.1f} s, the guest's clocks went on by {paused.boottime:.1f} s and "
                f"{paused.realtime:.0f} s of {paused.elapsed:.1f}",
                flush=True,
            )
            assert paused.complaints == [], paused.complaints
    finally:
        shell.close()
    return f"{sum(pauses):.0f} s of pauses, of {LONGEST:.0f} s at most, no report of the guest's kernel"
