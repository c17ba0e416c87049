"""For tests of ARM's devices: an interrupt line, and timers whose clock the test sets."""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.board.device import Line


class Wire(Line):
    """An interrupt line that records every level it was set to."""

    def __init__(self) -> None:
        self.changes: list[bool] = []

    def set(self, level: bool) -> None:
        self.changes.append(level)

    @property
    def level(self) -> bool:
        return bool(self.changes) and self.changes[-1]


class Timer:
    def __init__(self, loop: Clock, due: float, function: Callable[[], object]) -> None:
        self.loop, self.due, self.function = loop, due, function

    def cancel(self) -> None:
        if self in self.loop.timers:
            self.loop.timers.remove(self)


class Clock:
    """A loop's timers, and the time, which ``move`` lets pass."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.timers: list[Timer] = []

    def __call__(self) -> float:
        return self.now

    def clock(self) -> float:
        return self.now

    def call_later(self, seconds: float, function: Callable[[], object]) -> Timer:
        timer = Timer(self, self.now + seconds, function)
        self.timers.append(timer)
        return timer

    def move(self, seconds: float) -> None:
        """Advance the clock; timers fire in order."""
        end = self.now + seconds
        for _ in range(1000):
            due = [timer for timer in self.timers if timer.due <= end]
            if not due:
                break
            first = min(due, key=lambda timer: timer.due)
            self.now = max(self.now, first.due)
            self.timers.remove(first)
            first.function()
        else:
            raise AssertionError("a timer is set again and again")
        self.now = end
