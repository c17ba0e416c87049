"""Threads for transfers that wait for the medium, so that several are in progress at a time."""

from __future__ import annotations

from _queue import SimpleQueue
from threading import Condition, Thread

from pyvmm.loop import thread_room

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: How many transfers of one disk are in progress at a time.
DEPTH = 16


class Pool:
    """Carries out jobs in up to DEPTH threads, which are started as they are needed.

    A job is a function that raises nothing.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._open = 0
        self._change = Condition()

    def submit(self, job: Callable[[], object]) -> None:
        """Queue *job*; it is carried out in this thread where the host gives no other."""
        with self._change:
            self._open += 1
            wanted = self._open > len(self._threads) < DEPTH
        if wanted:
            thread = Thread(target=self._work, daemon=True)
            try:
                with thread_room():
                    thread.start()
                self._threads.append(thread)
            except RuntimeError:
                if not self._threads:
                    self._carry_out(job)
                    return
        self._jobs.put(job)

    def drain(self) -> None:
        """Wait until every job is done."""
        with self._change:
            self._change.wait_for(lambda: not self._open)

    def close(self) -> None:
        """Wait for the jobs and end the threads. Idempotent."""
        self.drain()
        for _ in self._threads:
            self._jobs.put(None)
        while self._threads:
            self._threads.pop().join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._carry_out(job)

    def _carry_out(self, job: Callable[[], object]) -> None:
        try:
            job()
        finally:
            with self._change:
                self._open -= 1
                if not self._open:
                    self._change.notify_all()
