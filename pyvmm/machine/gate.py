"""Blocks the vCPU threads of a paused machine."""

from __future__ import annotations

import _thread


class Gate:
    """Blocks *count* vCPU threads, each between two KVM_RUNs, while it is shut. All methods: any thread.

    A vCPU's thread calls ``stand`` after each KVM_RUN that ended without an exit (EINTR), so whoever shuts
    the gate then kicks the vCPUs.
    """

    __slots__ = ("_count", "_gone", "_lock", "_shut", "_standing", "_waiting")

    def __init__(self, count: int) -> None:
        self._count = count
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

    def stand(self) -> bool:
        """Block while the gate is shut. Returns whether it was."""
        with self._lock:
            if not self._shut:
                return False
            place = _place(self._standing)
            if len(self._standing) == self._count:
                _let_go(self._waiting)
        place.acquire()
        return True

    def open(self) -> None:
        """Let all blocked threads continue."""
        with self._lock:
            self._shut = False
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
