"""The one condition that everybody who waits for a guest waits on.

A wait is written once, as a generator: it yields ``Until`` objects and goes on when their predicate gives
something. ``Watch.drive`` runs such a generator in the calling thread, ``drive_async`` in a task of the
caller's asyncio loop. Whoever changes what a predicate looks at does so with ``condition`` held, or
before it calls ``changed``.
"""

from __future__ import annotations

import time
from threading import Condition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, TypeVar

    T = TypeVar("T")
    #: What ``drive`` runs: it is sent what each predicate gave, None when the deadline passed.
    Waits = Generator["Until", Any, T]


class Until:
    """A wait: until *predicate* gives something true, at most until *deadline* (``time.monotonic()``).

    The predicate is called with the condition held; it must be quick and raise nothing.
    """

    __slots__ = ("deadline", "predicate")

    def __init__(self, predicate: Callable[[], object], deadline: float | None = None) -> None:
        self.predicate = predicate
        self.deadline = deadline


class Watch:
    """A condition for threads, and for tasks of any asyncio loop."""

    def __init__(self) -> None:
        self.condition = Condition()
        self._tasks: list[Callable[[], None]] = []

    def changed(self) -> None:
        """Wake everybody who waits; each looks at its predicate. Any thread."""
        with self.condition:
            self.condition.notify_all()
            tasks = tuple(self._tasks)
        for wake in tasks:
            wake()

    def wait(self, predicate: Callable[[], object], timeout: float | None = None) -> object:
        """What *predicate* gives as soon as it is true; something false after *timeout* seconds."""

        def once() -> Waits[object]:
            answer = yield Until(predicate, deadline_of(timeout))
            return answer

        return self.drive(once())

    def drive(self, waits: Waits[T]) -> T:
        """Run *waits* in this thread; returns what it returns, raises what it raises."""
        answer: object = None
        try:
            while True:
                until = waits.send(answer)
                with self.condition:
                    while not (answer := until.predicate()):
                        left = time_left(until.deadline)
                        if left is not None and left <= 0:
                            break
                        self.condition.wait(left)
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            waits.close()

    async def drive_async(self, waits: Waits[T]) -> T:
        """The same in a task of the running asyncio loop. Cancelling the task closes *waits*."""
        import asyncio  # slow to load, and most never need it

        loop = asyncio.get_running_loop()
        woken = asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(woken.set)
            except RuntimeError:
                pass  # the loop is closed: nobody waits

        with self.condition:
            self._tasks.append(wake)
        answer: object = None
        try:
            while True:
                until = waits.send(answer)
                while True:
                    woken.clear()
                    with self.condition:
                        answer = until.predicate()
                    left = time_left(until.deadline)
                    if answer or (left is not None and left <= 0):
                        break
                    try:
                        await asyncio.wait_for(woken.wait(), left)
                    except TimeoutError:
                        pass
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            with self.condition:
                self._tasks.remove(wake)
            waits.close()


def deadline_of(timeout: float | None) -> float | None:
    """The time *timeout* seconds from now; None for no limit."""
    return None if timeout is None else time.monotonic() + timeout


def time_left(deadline: float | None) -> float | None:
    """Seconds until *deadline*, negative after it; None for no limit."""
    return None if deadline is None else deadline - time.monotonic()
