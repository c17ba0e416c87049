"""Output into a file, no input."""

from __future__ import annotations

from pyvmm.backends.base import BackendError, CharBackend
from pyvmm.host.notice import notice
from pyvmm.host.rotated import LIMIT, NotAFileError, RotatedFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.loop import Loop


class OutputFile(CharBackend):
    """Writes what the guest sends to *path*, emptied first or, with *append*, at its end.

    The file is a RotatedFile: full, it is renamed to ``FILE.1``, and another is begun. While the disk is
    full, output is dropped and counted, with one warning; the guest continues, and the file once there is
    room.
    """

    gives_input = False
    largest_file = LIMIT

    def __init__(self, path: str, append: bool = False) -> None:
        super().__init__()
        self.path = path
        self._append = append
        self._file: RotatedFile | None = None
        self._warned = False

    def open(self) -> None:
        """Open the file. Raises BackendError when that fails, or for a directory, FIFO or socket."""
        if self._file is not None:
            return
        try:
            self._file = RotatedFile(self.path, self._append)
        except NotAFileError:
            raise BackendError(
                f"console file {self.path} is not a file; for a pipe, use stdio and the shell"
            ) from None
        except OSError as error:
            raise BackendError(
                f"console file {self.path}: {error.strerror}; choose a file that can be written"
            ) from None

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        """Take output. Raises BackendError as ``open``."""
        self.open()

    def write(self, data: bytes) -> None:
        """Append *data* to the file; what cannot be written is counted in ``dropped``."""
        if self._file is None:
            self.dropped += len(data)
            return
        try:
            while data:
                data = data[self._file.writev([data]) :]
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
            written = self._file.writev(views) if self._file is not None else 0
        except OSError:
            written = 0  # write() reports the error
        if written < size:
            self.write(b"".join(views)[written:])
        return size

    def give(self, left: bytes, fd: int) -> None:
        """The process before has written to the file."""
        if self._file is not None:
            self._file.refresh()

    def describe(self) -> str:
        """The path, as ``file PATH``."""
        return f"file {self.path}"

    def close(self) -> None:
        """Close the file; later output is dropped. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
