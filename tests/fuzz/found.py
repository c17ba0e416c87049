"""What fuzzing has found so far: a folder a target in this user's cache, from which the next run goes on."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha1
from pathlib import Path

from pyvmm.images import cache

#: Where it is, whatever PYVMM_CACHE is while a target runs.
_PLACE = cache.directory() / "fuzz"


def folder(name: str) -> Path:
    """That of target *name*; it is made if need be."""
    place = _PLACE / name
    place.mkdir(parents=True, exist_ok=True)
    return place


def inputs(name: str) -> list[bytes]:
    """All inputs found for target *name*."""
    return [path.read_bytes() for path in sorted(folder(name).iterdir())]


def keep(name: str, found: Iterable[bytes], place: Path | None = None) -> None:
    """Write *found* to the folder of target *name*, or to *place*, each by the name of its contents."""
    place = folder(name) if place is None else place
    for data in found:
        (place / sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
