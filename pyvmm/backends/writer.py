"""A backend's output: a file descriptor that is written without blocking.

What the descriptor does not accept is kept in a bounded buffer that the loop writes out.
"""

from __future__ import annotations

import errno
import os
import select
from _thread import allocate_lock

from pyvmm.loop import ERROR, HANGUP, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.backends.base import CharBackend
    from pyvmm.loop import Loop

#: Bytes of the buffer.
LIMIT = 64 << 10
# The backend is full a little earlier: a guest that saw "transmitter empty" sends 16 bytes
# more, and several may be on their way in KVM's ring of coalesced writes.
_FULL = LIMIT - (4 << 10)
_ROOM = LIMIT // 2

# A pipe that polls as writable takes this much without blocking (pipe(7)).
_PIPE_BUF = 4096


class DescriptorWriter:
    """Writes to one file descriptor for *owner*, and keeps the owner's ``ready`` and ``dropped``.

    *on_broken* is called from the loop's thread when the other end is closed: a pipe without a reader, a
    terminal that hung up, a socket. Until ``open`` is called again, output is dropped, as after ``detach``.
    """

    def __init__(self, owner: CharBackend, on_broken: Callable[[], object] | None = None) -> None:
        self._owner = owner
        self._on_broken = on_broken
        self._lock = allocate_lock()
        self._buffer = bytearray()
        self._fd = -1
        self._blocking = False
        self._watched = False
        self._awaited = False  # ``offer`` has more, which its caller keeps
        self._loop: Loop | None = None
        #: The errno of the write that failed; EPIPE where epoll reported a hang-up.
        self.problem = errno.EPIPE

    def open(self, loop: Loop, fd: int, blocking: bool = False) -> None:
        """Write to *fd* from now on. It must not be in the loop otherwise; the caller closes it.

        With *blocking*, *fd* lacks O_NONBLOCK because other processes share it: it is then
        polled before each write.
        """
        with self._lock:
            self._loop = loop
            self._fd = fd
            self._blocking = blocking
            if self._buffer:
                loop.call_soon(self._watch)

    def detach(self) -> None:
        """Leave the loop. What is buffered is sent after the next ``open``, or by ``close``.

        Loop's thread, or after the loop. Idempotent.
        """
        with self._lock:
            self._unwatch()
            self._loop = None
            self._awaited = False
            self._owner.ready = len(self._buffer) < _FULL

    @property
    def buffered(self) -> bytes:
        """What waits to be written."""
        with self._lock:
            return bytes(self._buffer)

    def buffer(self, data: bytes) -> None:
        """Before ``open``: write at most LIMIT bytes of *data* before all else."""
        with self._lock:
            self._buffer[:0] = data[:LIMIT]

    def write(self, data: bytes) -> None:
        """Send or buffer *data*; drop and count what does not fit. Any thread."""
        with self._lock:
            fd = self._fd
            if fd < 0 or self._loop is None:
                self._owner.dropped += len(data)
                return
            if not self._buffer:
                written = self._put(fd, data)
                if written == len(data):
                    return
                if written < 0:
                    self._owner.dropped += len(data)
                    self._fd = -1
                    self._loop.call_soon(self._broken)
                    return
                data = data[written:]
                self._loop.call_soon(self._watch)
            room = LIMIT - len(self._buffer)
            self._owner.dropped += max(0, len(data) - room)
            self._buffer += data[:room]
            self._owner.ready = len(self._buffer) < _FULL and not self._awaited

    def offer(self, views: Sequence[memoryview]) -> int:
        """Write what the descriptor accepts of *views* now, without a copy; the rest is not buffered.

        Returns how many bytes were written or, with the other end closed, dropped. Any thread.
        """
        with self._lock:
            fd = self._fd
            size = sum(view.nbytes for view in views)
            if fd < 0 or self._loop is None:
                self._owner.dropped += size
                return size
            written = 0 if self._buffer or self._awaited else self._put_views(fd, views)
            if written < 0:
                self._owner.dropped += size
                self._fd = -1
                self._loop.call_soon(self._broken)
                return size
            if written < size:
                self._awaited = True
                self._owner.ready = False
                self._loop.call_soon(self._watch)
            return written

    def close(self, patience: float = 0.0) -> None:
        """Stop writing; the descriptor stays open. Loop's thread, or after the loop. Idempotent.

        What is buffered is written first, as long as the other end accepts some of it every
        *patience* seconds; the rest is dropped.
        """
        with self._lock:
            fd, rest = self._fd, bytes(self._buffer)
            full = self._forget()
        if fd >= 0 and rest and patience > 0:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            while rest and poll.poll(patience * 1000):
                written = self._put(fd, rest)
                if written <= 0:
                    break
                rest = rest[written:]
        self._owner.dropped += len(rest)
        if full and self._owner.on_ready is not None:
            self._owner.on_ready()

    def _unwatch(self) -> None:
        if self._watched and self._loop is not None:
            self._loop.remove(self._fd)
        self._watched = False

    def _forget(self) -> bool:
        self._unwatch()
        self._fd = -1
        self._awaited = False
        self._buffer.clear()
        full = not self._owner.ready
        self._owner.ready = True
        return full

    def _watch(self) -> None:
        with self._lock:
            wanted = self._buffer or self._awaited
            if wanted and self._fd >= 0 and not self._watched and self._loop is not None:
                self._loop.add(self._fd, WRITE, self._flush)
                self._watched = True

    def _flush(self, events: int) -> None:
        room = gone = False
        with self._lock:
            if self._fd < 0 or self._loop is None:
                return
            written = 0
            if events & (ERROR | HANGUP):
                written = -1
            elif self._buffer:
                written = self._put(self._fd, self._buffer)
            if written < 0:
                self._owner.dropped += len(self._buffer)
                room, gone = self._forget(), True
            else:
                del self._buffer[:written]
                if not self._buffer:
                    self._loop.remove(self._fd)
                    self._watched = False
                if not self._owner.ready and len(self._buffer) <= (0 if self._awaited else _ROOM):
                    self._owner.ready = room = True
                    self._awaited = False
        if room and self._owner.on_ready is not None:
            self._owner.on_ready()
        if gone:
            self._broken()

    def _broken(self) -> None:
        if self._on_broken is not None:
            self._on_broken()

    def _put_views(self, fd: int, views: Sequence[memoryview]) -> int:
        if self._blocking:
            return self._put(fd, b"".join(views))
        try:
            return os.writev(fd, views)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.problem = error.errno or errno.EIO
            return -1

    def _put(self, fd: int, data: bytes | bytearray) -> int:
        """How many bytes of *data* were written without blocking; -1 when the other end is closed."""
        done = 0
        try:
            if not self._blocking:
                return os.write(fd, data)
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            while done < len(data) and poll.poll(0):
                done += os.write(fd, data[done : done + _PIPE_BUF])
        except BlockingIOError:
            pass
        except OSError as error:
            self.problem = error.errno or errno.EIO
            return -1
        return done
