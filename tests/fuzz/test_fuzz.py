"""What fuzzing found worth keeping, and programs made up anew; scripts/fuzz runs for longer."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from pyvmm.config import DEVICE_KINDS
from tests.fuzz.targets import DEVICES, NOT_FUZZED, Target

CORPUS = Path(__file__).parent / "corpus"
#: Seconds of mutations a target, programs at least, and bytes of a program.
SECONDS = 1.0
LEAST = 50
LONGEST = 512


@pytest.fixture(params=DEVICES)
def target(request: pytest.FixtureRequest) -> Target:
    return Target(request.param)


def kept(target: Target) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target.name).glob("*"))]


def test_programs_when_kept_from_fuzzing_harm_nothing(target: Target) -> None:
    programs = kept(target)
    assert programs, f"scripts/fuzz {target.name}, then scripts/fuzz {target.name} --keep"

    for program in programs:
        target(program)

    assert target.counted.chains > 0 or not target.make().queue_sizes


def test_programs_when_mutated_harm_nothing(target: Target) -> None:
    seed = time.time_ns()
    rng = random.Random(seed)
    programs = kept(target) or [b""]
    end = time.monotonic() + SECONDS
    while time.monotonic() < end or target.programs < LEAST:
        program = mutated(rng, rng.choice(programs), rng.choice(programs))
        try:
            target(program)
        except Exception as error:
            pytest.fail(f"{target.name}: {error!r} by bytes.fromhex({program.hex()!r}), seed {seed}")

    assert target.counted.chains > 0 or not target.make().queue_sizes


def test_kinds_when_users_can_name_them_are_fuzzed_or_say_why_not() -> None:
    assert sorted(set(DEVICE_KINDS) - {"hvc"} - set(DEVICES) - set(NOT_FUZZED)) == []


def mutated(rng: random.Random, one: bytes, other: bytes) -> bytes:
    """*one* with some of its bytes changed, and a piece of *other* put in."""
    data = bytearray(one or b"\0")
    for _ in range(rng.randrange(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    cut, begin = rng.randrange(len(data) + 1), rng.randrange(len(other) + 1)
    data[cut:cut] = other[begin : begin + rng.randrange(64)] + rng.randbytes(rng.randrange(16))
    return bytes(data[:LONGEST])
