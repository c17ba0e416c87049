"""PrimeCells that raise an interrupt at a time of the machine's clock."""

from __future__ import annotations

from _thread import allocate_lock

from pyvmm.board.device import Level, Line
from pyvmm.devices.primecell import PrimeCell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board.timers import Cancellable, Timers


class TimedCell(PrimeCell):
    """A PrimeCell with one lock, one interrupt, and a timer that runs only while an interrupt is to come.

    :param line: level; driven while an interrupt is pending and not masked
    """

    def __init__(self, timers: Timers, line: Line | None = None) -> None:
        self._timers = timers
        self._line = Level(line)
        self._lock = allocate_lock()
        self._timer: Cancellable | None = None
        self._closed = False

    def close(self) -> None:
        """Cancel the timer; no other is started."""
        with self._lock:
            self._closed = True
            self._schedule()

    # Implemented by a subclass

    def _interrupting(self) -> bool:
        """Whether an interrupt is pending and not masked. Under the lock."""
        raise NotImplementedError

    def _due(self) -> float | None:
        """Seconds until ``_expired`` is to be called; None for no timer. Under the lock."""
        raise NotImplementedError

    def _expired(self) -> None:
        """The time may have come. In the loop's thread, without the lock; it ends with ``_changed``."""
        raise NotImplementedError

    # Called by a subclass, under the lock

    def _changed(self) -> None:
        self._line.set(self._interrupting())
        self._schedule()

    def _schedule(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        due = None if self._closed else self._due()
        if due is not None:
            self._timer = self._timers.call_later(due, self._expired)
