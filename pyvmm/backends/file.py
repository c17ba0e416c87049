"""Output into a file, no input."""

from __future__ import annotations

import os
import stat

from pyvmm.backends.base import BackendError, CharBackend
from pyvmm.host.notice import notice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.loop import Loop


class OutputFile(CharBackend):
    """Writes what the guest sends to *path*, emptied first or, with *append*, at its end.

    While the disk is full, output is dropped and counted, with one warning; the guest runs on, and the file
    is continued once there is room.
    """

    def __init__(self, path: str, append: bool = False) -> None:
        super().__init__()
        self.path = path
        self._append = append
        self._fd = -1
        self._warned = False

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        """Open the file. Raises BackendError when that fails, or for a directory, FIFO or socket."""
        if self._fd >= 0:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        flags |= os.O_APPEND if self._append else os.O_TRUNC
        try:
            self._fd = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise BackendError(
                f"console file {self.path}: {error.strerror}; choose a file that can be written"
            ) from None
        mode = os.fstat(self._fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
            self.close()
            raise BackendError(f"console file {self.path} is not a file; for a pipe, use stdio and the shell")

    def write(self, data: bytes) -> None:
        """Append *data* to the file; what cannot be written is counted in ``dropped``."""
        if self._fd < 0:
            self.dropped += len(data)
            return
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            self.dropped += len(data)
            if not self._warned:
                self._warned = True
                notice(
                    f"console file {self.path}",
                    f"console file {self.path}: {error.strerror}; output is lost until it can be written",
                )

    def offer(self, views: Sequence[memoryview]) -> int:
        """Append *views* to the file; all of them count as taken."""
        size = sum(view.nbytes for view in views)
        try:
            written = os.writev(self._fd, views)
        except OSError:
            written = 0  # write() reports the error
        if written < size:
            self.write(b"".join(views)[written:])
        return size

    def describe(self) -> str:
        """The path, as ``file PATH``."""
        return f"file {self.path}"

    def close(self) -> None:
        """Close the file; later output is dropped. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
