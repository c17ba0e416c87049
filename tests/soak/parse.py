"""Broken images and command lines against what parses them, by chance: ``scripts/fuzz PARSER`` is guided."""

from __future__ import annotations

import os
import random
import time

from tests.fuzz.parsers import PARSERS, ParserTarget


def run(seconds: float, seed: int) -> str:
    """Mutate the inputs of every parser, each for its part of *seconds*."""
    os.environ["PYVMM_CACHE"] = "/proc/no-cache"  # unpacked kernels are not kept
    inputs = accepted = 0
    for name in PARSERS:
        target, rng = ParserTarget(name), random.Random(seed)
        end = time.monotonic() + seconds / len(PARSERS)
        while time.monotonic() < end:
            data = target.mutation(rng)
            try:
                target(data)
            except Exception as error:
                raise AssertionError(
                    f"{name}: {error!r} by bytes.fromhex({data.hex()!r}), seed {seed}"
                ) from error
        print(f"{name}: {target.programs} inputs, {target.accepted} accepted", flush=True)
        inputs += target.programs
        accepted += target.accepted
    return f"{len(PARSERS)} parsers: {inputs} inputs, {accepted} accepted, no defect"
