"""A file that a guest fills without end: full, it is renamed to ``FILE.1``, and another is begun."""

from __future__ import annotations

import errno
import os
import stat

from pyvmm.host.broker import Offer
from pyvmm.host.private import open_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: Bytes of one file; with the one before it a guest has twice as much.
LIMIT = 256 << 20


class NotAFileError(OSError):
    """A pipe, a socket, a block device."""


class RotatedFile:
    """The file *path*, opened by ``open_private``: emptied first or, with *append*, continued.

    A regular file has at most *limit* bytes. A write that does not fit renames it to ``FILE.1``, in the place
    of an earlier one, and begins anew. A character device has no limit. One thread at a time. Raises OSError,
    whose ``strerror`` says what is wrong, and NotAFileError for what is neither.
    """

    def __init__(self, path: str, append: bool = False, limit: int = LIMIT) -> None:
        self.path = path
        self._limit = limit
        self._size = 0
        # O_APPEND whatever *append*: who empties the file meanwhile gets no hole in it.
        self._fd = open_private(path, os.O_APPEND | os.O_NONBLOCK | (0 if append else os.O_TRUNC))
        found = os.fstat(self._fd)
        self._begin_anew = Offer(self._begin_anew_here)
        self._rotates = stat.S_ISREG(found.st_mode)
        if not self._rotates and not stat.S_ISCHR(found.st_mode):
            self.close()
            raise NotAFileError(0, "it is not a file", path)
        if append:
            self._size = found.st_size

    def writev(self, buffers: Sequence[memoryview | bytes]) -> int:
        """Write *buffers* at the end; the number of bytes that were written. Raises OSError."""
        size = sum(memoryview(buffer).nbytes for buffer in buffers)
        if self._size + size > self._limit and self._rotates and self._size:
            self._rotate()
        try:
            written = os.writev(self._fd, buffers)
        except OSError as error:
            if error.errno != errno.EFBIG or not self._rotates:
                raise
            self._rotate()  # others have filled it up to this process's limit (RLIMIT_FSIZE)
            written = os.writev(self._fd, buffers)
        self._size += written
        return written

    def refresh(self) -> None:
        """Another process has written to the file by a copy of the descriptor: see how large it is."""
        self._size = os.fstat(self._fd).st_size

    def close(self) -> None:
        """Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _rotate(self) -> None:
        """Rename the file, if it is still there, and begin another. Raises OSError: the old one is kept."""
        fd = self._begin_anew()
        if fd != self._fd:
            os.close(self._fd)
            self._fd = fd
        self._size = os.lseek(fd, 0, os.SEEK_END)  # which a sandbox allows, unlike fstat

    def _begin_anew_here(self, _: int, __: int) -> int:
        if os.fstat(self._fd).st_size < self._limit // 2:
            return os.dup(self._fd)  # somebody has emptied it, or asks too often: nothing is thrown away
        flags = os.O_APPEND | os.O_NONBLOCK
        try:
            same = os.path.samestat(os.fstat(self._fd), os.lstat(self.path))
        except FileNotFoundError:
            same = False  # somebody has renamed or removed it
        if same:
            os.rename(self.path, f"{self.path}.1")
            flags |= os.O_EXCL
        fd = open_private(self.path, flags)
        # This process has that file from now on, also where another one writes to it.
        os.dup2(fd, self._fd, inheritable=False)
        return fd
