"""Frames into a capture file that Wireshark and tcpdump open: pcap with times in nanoseconds.

Format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html
"""

from __future__ import annotations

import os
import time
from _queue import SimpleQueue
from _thread import allocate_lock, start_new_thread
from struct import Struct

from pyvmm.backends.host_objects import HostObject
from pyvmm.backends.net.base import NetBackendError
from pyvmm.host.notice import notice
from pyvmm.host.private import open_private
from pyvmm.loop import no_thread, thread_room

#: Bytes of a file at most, unless the user asks for more.
LIMIT = 1 << 30
#: Bytes of records that may be queued for the disk; frames beyond are left out of the file.
BACKLOG = 32 << 20

_MAGIC_NANOSECONDS = 0xA1B23C4D
_ETHERNET = 1
_SNAPLEN = 262144
_FILE = Struct("<IHHiIII")
_RECORD = Struct("<IIII")
#: Records that are written at once.
_BATCH = 256


class Capture(HostObject):
    """A capture in *path*, of at most *limit* bytes.

    A thread of its own writes, so no queue waits for the disk. Raises NetBackendError when the
    file cannot be made.
    """

    def __init__(self, path: str, limit: int = LIMIT) -> None:
        self.path = path
        #: Frames left out: the disk was too slow.
        self.dropped = 0
        self._limit = self.largest_file = limit
        self._left = limit - _FILE.size
        self._waiting = 0  # bytes of the records in the queue
        self._counting = allocate_lock()  # for both numbers: several threads count
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        self._running = allocate_lock()
        self._started = self._closed = False
        try:
            self._fd = open_private(path, os.O_TRUNC)
            os.write(self._fd, _FILE.pack(_MAGIC_NANOSECONDS, 2, 4, 0, 0, _SNAPLEN, _ETHERNET))
        except OSError as error:
            raise NetBackendError(
                f"cannot write the capture {path}: {error.strerror}; choose another file"
            ) from None

    def start(self) -> None:
        """Begin to write, until ``detach``."""
        self._running.acquire()
        try:
            with thread_room():
                start_new_thread(self._write, ())
        except RuntimeError:
            self._running.release()
            raise no_thread(f"the capture {self.path}") from None
        self._started = True

    def frame(self, data: bytes) -> None:
        """Record one frame. Any thread."""
        size = len(data)
        needed = _RECORD.size + size
        with self._counting:
            if self._left <= 0:
                return
            self._left -= needed
            full = self._left < 0
            if not full:
                if self._waiting + needed > BACKLOG:
                    self.dropped += 1
                    return
                self._waiting += needed
        if full:
            notice(
                f"capture {self.path}", f"the capture {self.path} is full; give a larger pcap-limit for more"
            )
            return
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        self._queue.put(_RECORD.pack(seconds, nanoseconds, size, size) + data)

    def detach(self) -> None:
        """Write what is queued, and end the thread. Idempotent."""
        if not self._started:
            return
        self._started = False
        self._queue.put(b"")
        with self._running:
            pass
        if self.dropped:
            notice(
                "capture dropped",
                f"the capture {self.path} lacks {self.dropped} frames: its disk was too slow",
            )

    def give(self, left: bytes, fd: int) -> None:
        """How much of the file the process before has filled."""
        self._left = self._limit - os.fstat(self._fd).st_size

    def close(self) -> None:
        """Write what is queued, and close. Idempotent."""
        if not self._closed:
            self.detach()
            self._closed = True
            os.close(self._fd)

    def _write(self) -> None:
        queue, fd = self._queue, self._fd
        last = False
        try:
            while not last:
                records = [queue.get()]
                while len(records) < _BATCH and not queue.empty():
                    records.append(queue.get())
                last = not records[-1]
                data = memoryview(b"".join(records))
                with self._counting:
                    self._waiting -= len(data)
                while data:
                    data = data[os.write(fd, data) :]
        except OSError as error:
            self._left = 0
            notice(f"capture {self.path}", f"the capture {self.path} ends here: {error.strerror}")
            while not last:
                last = not queue.get()
        finally:
            self._running.release()
