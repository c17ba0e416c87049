"""A stream socket that is connected already: a console whose other end another process holds."""

from __future__ import annotations

import os

from pyvmm.backends.duplex import Duplex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.loop import Loop


#: Seconds that the end waits for a process that takes none of the output.
_PATIENCE = 2.0


class ConnectedSocket(Duplex):
    """The console's bytes over the socket *fd*, which becomes this object's."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._patience = _PATIENCE
        os.set_blocking(fd, False)
        self._fds = [fd, os.dup(fd)]  # the loop knows the socket twice: for input and for output

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        """Begin."""
        reader = self._begin(loop, receive, space)
        self._writer.open(loop, self._fds[1])
        reader.open(self._fds[0])

    def describe(self) -> str:
        """``its program's``."""
        return "its program's"

    def close(self) -> None:
        """Idempotent."""
        self.detach()
        while self._fds:
            os.close(self._fds.pop())
