"""Guides mutations by coverage, in Python itself: an input that takes a new way through the code is kept.

A way is an arc, from one line of a function to the next, in the rooms that read what comes from outside.
``sys.settrace`` tells them, in this thread alone; a run takes some five times as long as without. atheris,
which ``scripts/fuzz`` uses where it is installed, is faster.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pyvmm

PACKAGE = str(Path(pyvmm.__file__).parent)
ROOMS = tuple(
    f"{PACKAGE}/{room}"
    for room in ("virtio/", "backends/", "memory/", "boot/", "arch/", "exec/", "config/", "cpio.py")
)
#: One of the newest inputs is changed as often as one of all.
_NEWEST = 16
_LINES = 1 << 16


class Tracer:
    """Collects the arcs of what is called while it is entered."""

    def __init__(self) -> None:
        #: Numbers of arcs, which are the same while this object is there.
        self.arcs: set[int] = set()
        self._numbers: dict[CodeType, int] = {}
        self._before: Any = None

    def __enter__(self) -> set[int]:
        self.arcs = set()
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self.arcs

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _called(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        code = frame.f_code
        number = self._numbers.get(code)
        if number is None:
            wanted = code.co_filename.startswith(ROOMS)
            number = self._numbers[code] = len(self._numbers) + 1 if wanted else 0
        if not number:
            return None
        base, last, add = number * _LINES * _LINES, 0, self.arcs.add

        def line(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
            nonlocal last
            here = frame.f_lineno
            add(base + last * _LINES + here)
            last = here
            return line

        return line


class Guide:
    """Finds inputs of *target*, which is called with one and raises what is a defect.

    :param seeds: inputs to begin with
    :param change: makes another input out of two
    """

    def __init__(
        self,
        target: Callable[[bytes], None],
        seeds: Iterable[bytes],
        change: Callable[[random.Random, bytes, bytes], bytes],
    ) -> None:
        self._target = target
        self._change = change
        self._tracer = Tracer()
        self.inputs: list[bytes] = []
        #: All arcs that were taken.
        self.seen: set[int] = set()
        for seed in seeds:
            self.tried(seed)

    def tried(self, data: bytes) -> bool:
        """Run *data*, and keep it if it takes a new arc; whether it does. Raises a defect."""
        with self._tracer as arcs:
            self._target(data)
        if arcs <= self.seen:
            return False
        self.seen |= arcs
        self.inputs.append(data)
        return True

    def run(self, seconds: float, rng: random.Random) -> None:
        """Change inputs for *seconds*. Raises AssertionError with the input that shows a defect."""
        if not self.inputs and not self.tried(b""):
            self.inputs.append(b"")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            among = self.inputs[-_NEWEST:] if rng.random() < 0.5 else self.inputs
            data = self._change(rng, rng.choice(among), rng.choice(self.inputs))
            try:
                self.tried(data)
            except Exception as error:
                raise AssertionError(f"{error!r} by bytes.fromhex({data.hex()!r})") from error

    def least(self, most: int, longest: int) -> list[bytes]:
        """At most *most* inputs, of at most *longest* bytes, that take as many arcs as they can together."""
        arcs = {}
        for data in self.inputs:
            if len(data) <= longest:
                with self._tracer as taken:
                    self._target(data)
                arcs[data] = taken
        chosen: list[bytes] = []
        covered: set[int] = set()
        while arcs and len(chosen) < most:
            best = max(arcs, key=lambda data: (len(arcs[data] - covered), -len(data)))
            if arcs[best] <= covered:
                break
            chosen.append(best)
            covered |= arcs.pop(best)
        return chosen
