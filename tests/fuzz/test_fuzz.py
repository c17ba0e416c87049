"""Programs kept from fuzzing, and mutations of them; `scripts/soak fuzz` runs for longer."""

from __future__ import annotations

import random
import time

import pytest

from pyvmm.config import DEVICE_KINDS
from tests.fuzz.mutation import kept, mutated
from tests.fuzz.targets import DEVICES, NOT_FUZZED, Target

#: Seconds of mutations a target, and programs at least.
SECONDS = 1.0
LEAST = 50


@pytest.fixture(params=DEVICES)
def target(request: pytest.FixtureRequest) -> Target:
    return Target(request.param)


def test_programs_when_kept_from_fuzzing_harm_nothing(target: Target) -> None:
    programs = kept(target.name)
    assert programs, f"scripts/fuzz {target.name}, then scripts/fuzz {target.name} --keep"

    for program in programs:
        target(program)

    assert target.oracle.chains > 0 or not target.make().queue_sizes


def test_programs_when_mutated_harm_nothing(target: Target) -> None:
    seed = time.time_ns()
    rng = random.Random(seed)
    programs = kept(target.name) or [b""]
    end = time.monotonic() + SECONDS
    while time.monotonic() < end or target.programs < LEAST:
        program = mutated(rng, rng.choice(programs), rng.choice(programs))
        try:
            target(program)
        except Exception as error:
            pytest.fail(f"{target.name}: {error!r} by bytes.fromhex({program.hex()!r}), seed {seed}")

    assert target.oracle.chains > 0 or not target.make().queue_sizes


def test_kinds_when_users_can_name_them_are_fuzzed_or_say_why_not() -> None:
    assert sorted(set(DEVICE_KINDS) - {"hvc"} - set(DEVICES) - set(NOT_FUZZED)) == []
