"""A pair of named pipes: one to read the guest's output from, one to write its input to.

After fifo(7). The names are those QEMU's ``pipe`` has: PATH.out and PATH.in.
"""

from __future__ import annotations

import os
import stat

from pyvmm.backends.base import BackendError
from pyvmm.backends.duplex import Duplex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.loop import Loop


class Fifo(Duplex):
    """The named pipes *path*.out and *path*.in, made where they are missing and then removed by ``close``.

    Those that are there must be of this user or of root. Programs may open and close either end at any time.
    Output that is not read stays in the pipe, and when that is full the guest waits: nothing is lost.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._fds: list[int] = []  # output, input
        self._made: list[str] = []

    def open(self) -> None:
        """Open both pipes. Raises BackendError when one cannot be made, or is something else."""
        if self._fds:
            return
        try:
            self._open(f"{self.path}.out")
            self._open(f"{self.path}.in")
        except BaseException:
            self.close()
            raise

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        """Begin. Raises BackendError as ``open``."""
        reader = self._begin(loop, receive, space)
        output, input_ = self._fds
        reader.open(input_)
        self._writer.open(loop, output)

    def describe(self) -> str:
        """The path, as ``pipe PATH``."""
        return f"pipe {self.path}"

    def close(self) -> None:
        """Close the pipes and remove those that were made here. Idempotent."""
        self.detach()
        self._writer.close()
        while self._fds:
            os.close(self._fds.pop())
        while self._made:
            try:
                os.unlink(self._made.pop())
            except OSError:
                pass  # another process removed it

    def _open(self, path: str) -> None:
        try:
            try:
                os.mkfifo(path, 0o600)
                self._made.append(path)
            except FileExistsError:
                pass
            # For reading and writing: such an open does not wait for the other end; there is no end of file.
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise BackendError(f"named pipe {path}: {error.strerror}; choose another path") from None
        self._fds.append(fd)
        found = os.fstat(fd)
        if not stat.S_ISFIFO(found.st_mode):
            raise BackendError(f"{path} exists and is no named pipe; choose another path or remove it")
        if found.st_uid not in (0, os.geteuid()):
            raise BackendError(
                f"named pipe {path} is of user {found.st_uid}, neither you nor root; choose another path"
            )
