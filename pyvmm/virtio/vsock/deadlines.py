"""Time limits of many items, all equally long, with one timer."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.virtio.runtime import Runtime


class Deadlines:
    """Calls ``expired(item)`` for an item that was not removed within *seconds*.

    :param runtime: whose timer to use, while its device runs
    """

    def __init__(self, runtime: Runtime, seconds: float, expired: Callable[[Any], object]) -> None:
        self._runtime = runtime
        self._seconds = seconds
        self._expired = expired
        self._due: dict[object, float] = {}  # in the order they were added, which is that of the times
        self._ticking = False

    def add(self, item: object) -> None:
        """Begin to wait for *item*."""
        self._due[item] = self._runtime.timers.clock() + self._seconds
        self._tick_in(self._seconds)

    def remove(self, item: object) -> None:
        """It came; nothing happens for one that is not waited for."""
        self._due.pop(item, None)

    def clear(self) -> None:
        """The device stopped, and its timer with it."""
        self._due.clear()
        self._ticking = False

    def _tick_in(self, seconds: float) -> None:
        if not self._ticking:
            self._ticking = True
            self._runtime.later(seconds, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        now = self._runtime.timers.clock()
        for item in [item for item, due in self._due.items() if due <= now]:
            if self._due.pop(item, None) is not None:
                self._expired(item)
        if self._due:
            self._tick_in(max(0.0, min(self._due.values()) - now))
