"""Reads and writes of a block device: in the caller's thread where they do not block, else in a pool of
threads.

A medium that several threads may use answers each in a tenth of the time when it has many requests
to choose from; what is in the page cache is read sooner without another thread.
"""

from __future__ import annotations

from collections import deque

from pyvmm.backends.disk.base import SECTOR
from pyvmm.virtio.block import request as r

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.backends.disk.base import Disk, Views
    from pyvmm.backends.disk.pool import Pool
    from pyvmm.virtio.block.request import BlockRequest
    from pyvmm.virtio.ring.queue import Queue

    #: Requests adjacent on the disk, of one queue and one kind.
    Run = list[BlockRequest]


class Transfers:
    """What carries out reads and writes of *disk*.

    :param failed: told of every request that failed, with its error; any thread
    :param ready: asked, in any thread, to have ``finished`` called in the device's
    """

    def __init__(
        self,
        disk: Disk,
        failed: Callable[[BlockRequest, OSError], object],
        ready: Callable[[], object],
    ) -> None:
        #: Whether a write is on the medium before it is reported done.
        self.durable = False
        self._disk = disk
        self._failed = failed
        self._ready = ready
        self._abandoned = False
        self._pool: Pool | None = None
        self._done: deque[tuple[Queue, Run, list[int] | Exception]] = deque()
        self._asked = False

    def carry_out(self, queue: Queue, run: Run) -> list[int] | None:
        """Do *run*; the status of each request, or None when ``finished`` gives them later."""
        disk, kind = self._disk, run[0].kind
        if not disk.parallel or (kind == r.OUT and not disk.direct):
            return self._wait(run)
        if kind == r.IN and self._read_now(run):
            return [r.OK] * len(run)
        if self._pool is None:
            from pyvmm.backends.disk.pool import Pool

            self._pool = Pool()
        self._pool.submit(lambda: self._job(queue, run))
        return None

    def finished(self) -> list[tuple[Queue, Run, list[int]]]:
        """What the pool has done since the last call. Raises what a disk raised that is its own defect."""
        self._asked = False  # what is done from now on asks again
        found = []
        while self._done:
            queue, run, statuses = self._done.popleft()
            if isinstance(statuses, Exception):
                raise statuses
            found.append((queue, run, statuses))
        return found

    def drain(self) -> None:
        """Wait until the pool has done everything."""
        if self._pool is not None:
            self._pool.drain()

    def abandon(self) -> None:
        """Wait for what is under way, drop what has not begun, and forget all of it."""
        self._abandoned = True
        self.drain()
        self._done.clear()
        self._asked = self._abandoned = False

    def close(self) -> None:
        """End the pool. Idempotent."""
        if self._pool is not None:
            self._pool.close()

    def _read_now(self, run: Run) -> bool:
        one = run[0]
        views, size = (one.data, one.size) if len(run) == 1 else _joined(run)
        try:
            return self._disk.read_now(views, one.sector * SECTOR, size)
        except OSError:
            return False  # the pool finds out for which request

    def _wait(self, run: Run) -> list[int]:
        one = run[0]
        views, size = (one.data, one.size) if len(run) == 1 else _joined(run)
        try:
            if one.kind == r.IN:
                self._disk.read(views, one.sector * SECTOR, size)
            elif self._disk.readonly:
                return [r.IOERR] * len(run)
            else:
                self._disk.write(views, one.sector * SECTOR, size, self.durable)
        except OSError as error:
            if len(run) > 1:  # which of them it was
                return [self._wait([request])[0] for request in run]
            self._failed(one, error)
            return [r.IOERR]
        return [r.OK] * len(run)

    def _job(self, queue: Queue, run: Run) -> None:
        if self._abandoned:
            return
        statuses: list[int] | Exception
        try:
            statuses = self._wait(run)
        except Exception as error:
            statuses = error
        self._done.append((queue, run, statuses))
        if not self._asked:
            self._asked = True
            self._ready()


def _joined(run: Run) -> tuple[Views, int]:
    """The data of adjacent requests as one, and its size in bytes."""
    size = sum([request.size for request in run])
    vectors = [request.vector for request in run if request.vector is not None]
    if len(vectors) == len(run):
        return vectors[0].join(vectors[1:]), size
    return [view for request in run for view in request.data], size
