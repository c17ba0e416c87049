"""The guide itself: which inputs it keeps, and how it tells of a defect."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.guide import Guide
from tests.fuzz.parsers import LONGEST, ParserTarget


def guide(target: ParserTarget) -> Guide:
    return Guide(target, target.seeds, target.changed)


def test_input_is_kept_when_it_takes_a_new_way_through_the_code() -> None:
    target = ParserTarget("disk-header")
    found = guide(target)
    known = set(found.seen)
    assert known and len(found.inputs) > 1

    assert not found.tried(target.seeds[0])
    assert found.tried(b"QFI\xfb")  # a header that ends in its magic number

    assert found.inputs[-1] == b"QFI\xfb" and found.seen > known


def test_fewest_inputs_take_the_ways_that_all_take() -> None:
    target = ParserTarget("disk-header")
    found = guide(target)
    found.run(0.2, random.Random(1))

    least = found.least(len(found.inputs), LONGEST)

    assert set(least) <= set(found.inputs)
    assert len(Guide(target, least, target.changed).seen) == len(found.seen)
    assert found.least(2, LONGEST) == least[:2]
    assert all(len(data) <= 64 for data in found.least(8, 64))


def test_defect_is_told_with_the_input_that_shows_it() -> None:
    def target(data: bytes) -> None:
        if data[:1] == b"x":
            raise KeyError(1)

    found = Guide(target, [], lambda rng, one, other: b"xy")

    with pytest.raises(AssertionError, match=r"KeyError\(1\) by bytes.fromhex\('7879'\)"):
        found.run(60, random.Random(1))
