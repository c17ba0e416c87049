"""Programs for the fuzzer without a guide: the kept ones, and changes of them."""

from __future__ import annotations

import random
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
#: Bytes of a program.
LONGEST = 512


def kept(name: str) -> list[bytes]:
    """The programs of target *name* that are in the tree."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def mutated(rng: random.Random, one: bytes, other: bytes) -> bytes:
    """*one* with some of its bytes changed, and a piece of *other* put in."""
    data = bytearray(one or b"\0")
    for _ in range(rng.randrange(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    cut, begin = rng.randrange(len(data) + 1), rng.randrange(len(other) + 1)
    data[cut:cut] = other[begin : begin + rng.randrange(64)] + rng.randbytes(rng.randrange(16))
    return bytes(data[:LONGEST])
