"""Mutations of images and command lines; `scripts/soak parse` runs for longer."""

from __future__ import annotations

import random
import time

import pytest

from tests.fuzz.mutation import kept
from tests.fuzz.parsers import PARSERS, ParserTarget

#: Seconds of mutations a parser, and inputs at least.
SECONDS = 0.5
LEAST = 50


@pytest.fixture(params=PARSERS)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ParserTarget:
    monkeypatch.setenv("PYVMM_CACHE", "/proc/no-cache")
    return ParserTarget(request.param)


def test_inputs_when_valid_are_accepted(target: ParserTarget) -> None:
    for seed in target.seeds:
        target(seed)

    assert target.accepted > 0


def test_inputs_when_kept_from_fuzzing_are_parsed_or_refused_in_one_sentence(target: ParserTarget) -> None:
    inputs = kept(target.name)
    assert inputs, "scripts/soak parse, then scripts/fuzz --keep"

    for data in inputs:
        target(data)


def test_inputs_when_mutated_are_parsed_or_refused_in_one_sentence(target: ParserTarget) -> None:
    seed = time.time_ns()
    rng = random.Random(seed)
    end = time.monotonic() + SECONDS
    # Few mutations of some formats are valid: until one is, on a busy host.
    while time.monotonic() < end or target.programs < LEAST or not target.accepted:
        data = target.mutation(rng)
        try:
            target(data)
        except Exception as error:
            pytest.fail(f"{target.name}: {error!r} by bytes.fromhex({data.hex()!r}), seed {seed}")

    assert target.accepted > 0
