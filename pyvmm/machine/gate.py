"""Blocks the vCPU threads of a paused machine."""

from __future__ import annotations

import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _nothing() -> None:
    pass


class Gate:
    """Blocks *count* vCPU threads, each between two KVM_RUNs, while it is shut. All methods: any thread.

    :param stopped: called when all have stopped, in the thread of the last one
    :param continues: called before any of them continues, where ``stopped`` was; not after ``remove``

    Neither may use the gate. A vCPU's thread calls ``stand`` after each KVM_RUN that ended without an exit
    (EINTR), so whoever shuts the gate then kicks the vCPUs.
    """

    __slots__ = ("_continues", "_count", "_gone", "_lock", "_shut", "_standing", "_stopped", "_waiting")

    def __init__(
        self,
        count: int,
        stopped: Callable[[], object] = _nothing,
        continues: Callable[[], object] = _nothing,
    ) -> None:
        self._count = count
        self._stopped = stopped
        self._continues = continues
        self._lock = _thread.allocate_lock()
        self._shut = False
        self._gone = False
        # A lock for each thread blocked in ``stand`` and in ``wait``; it is released to let the thread
        # continue.
        self._standing: list[_thread.LockType] = []
        self._waiting: list[_thread.LockType] = []

    def shut(self) -> None:
        """Block each thread that calls ``stand`` from now on; no effect after ``remove``."""
        with self._lock:
            self._shut = not self._gone

    def wait(self) -> None:
        """Return when all threads are blocked in ``stand``, or when the gate is open again."""
        with self._lock:
            if not self._shut or len(self._standing) == self._count:
                return
            place = _place(self._waiting)
        place.acquire()

    def stand(self) -> None:
        """Block while the gate is shut. Raises what ``stopped`` raises."""
        with self._lock:
            if not self._shut:
                return
            if len(self._standing) + 1 == self._count:
                self._stopped()
            place = _place(self._standing)
            if len(self._standing) == self._count:
                _let_go(self._waiting)
        place.acquire()

    def open(self) -> None:
        """Let all blocked threads continue. Raises what ``continues`` raises, when they do."""
        with self._lock:
            self._shut = False
            try:
                if len(self._standing) == self._count and not self._gone:
                    self._continues()
            finally:
                _let_go(self._standing)
                _let_go(self._waiting)

    def remove(self) -> None:
        """Open it; from now on ``shut`` has no effect."""
        with self._lock:
            self._gone = True
        self.open()


def _place(places: list[_thread.LockType]) -> _thread.LockType:
    place = _thread.allocate_lock()
    place.acquire()
    places.append(place)
    return place


def _let_go(places: list[_thread.LockType]) -> None:
    for place in places:
        place.release()
    places.clear()
