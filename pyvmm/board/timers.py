"""What devices with timers are given: a clock, and calls at a time of it. For type checkers only.

``machine.clock.MachineClock`` is one, and so is the event loop.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Cancellable(Protocol):
        """A call to come."""

        @property
        def active(self) -> bool:
            """True until it was made or cancelled."""

        @property
        def cancelled(self) -> bool:
            """Whether ``cancel`` was called."""

        def cancel(self) -> None:
            """Never make it; no effect when it was made already."""

    class Timers(Protocol):
        """A clock that never goes back, and calls at a time of it."""

        @property
        def clock(self) -> Callable[[], float]:
            """Seconds; their zero is arbitrary."""

        def call_later(self, seconds: float, function: Callable[[], Any]) -> Cancellable:
            """Call *function* in the event loop's thread, *seconds* (>= 0) from now. Any thread."""
