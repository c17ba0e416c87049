"""Broken images, lines and messages against what parses them, guided by coverage."""

from __future__ import annotations

import os
import random

from tests.fuzz import found
from tests.fuzz.guide import Guide
from tests.fuzz.mutation import kept
from tests.fuzz.parsers import PARSERS, ParserTarget


def run(seconds: float, seed: int) -> str:
    """Fuzz every parser, each for its part of *seconds*."""
    os.environ["PYVMM_CACHE"] = "/proc/no-cache"  # unpacked kernels are not kept
    inputs = accepted = arcs = 0
    for name in PARSERS:
        target = ParserTarget(name)
        guide = Guide(target, [*target.seeds, *kept(name), *found.inputs(name)], target.changed)
        try:
            guide.run(seconds / len(PARSERS), random.Random(seed))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}, seed {seed}") from error
        found.keep(name, guide.inputs)
        print(f"{target.tally().strip()}, {len(guide.seen)} arcs by {len(guide.inputs)} of them", flush=True)
        inputs += target.programs
        accepted += target.accepted
        arcs += len(guide.seen)
    return f"{len(PARSERS)} parsers: {inputs} inputs, {accepted} accepted, {arcs} arcs of the code, no defect"
