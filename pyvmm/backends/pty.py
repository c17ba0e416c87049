"""A pseudo-terminal that programs such as screen, picocom or a test attach to."""

from __future__ import annotations

import os
import select
import termios

from pyvmm.backends.base import BackendError
from pyvmm.backends.duplex import Duplex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.loop import Loop, Timer

# That a program has opened the slave is found by polling: there is no event for it.
_TICK = 0.1
_PATIENCE = 0.2


class Pty(Duplex):
    """A new pty in raw mode; ``path`` is its slave, made by ``open``.

    While no program has the slave open, output is dropped; programs may open and close it at any time.
    A program that has it open and does not read makes the guest wait, as a real line would.
    """

    def __init__(self) -> None:
        super().__init__()
        self._patience = _PATIENCE
        #: The slave, such as /dev/pts/3; empty before ``open``.
        self.path = ""
        self._master = -1
        self._copy = -1  # the loop knows the master twice: for input and, as this, for output
        self._timer: Timer | None = None
        self._connected = False

    @property
    def connected(self) -> bool:
        """True while a program has the slave open."""
        return self._connected

    def open(self) -> None:
        """Make the pty. Raises BackendError when the host has none left."""
        if self._master >= 0:
            return
        try:
            self._master, slave = os.openpty()
        except OSError as error:
            raise BackendError(f"no pty to be had: {error.strerror}; use --console socket:PATH") from None
        try:
            self.path = os.ttyname(slave)
            modes = termios.tcgetattr(slave)
            modes[0] = modes[1] = modes[3] = 0  # iflag, oflag, lflag: bytes pass as they are, no echo
            termios.tcsetattr(slave, termios.TCSANOW, modes)
        finally:
            os.close(slave)
        os.set_blocking(self._master, False)
        self._copy = os.dup(self._master)

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        """Begin. Raises BackendError as ``open``."""
        self._begin(loop, receive, space, self._broken)
        self._wait_for_program()

    def detach(self) -> None:
        """Leave the loop; a program that has the slave open notices nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().detach()

    def describe(self) -> str:
        """The slave's path, as ``pty PATH``."""
        return f"pty {self.path}"

    def close(self) -> None:
        """Hang up and remove the pty. Idempotent."""
        if self._master < 0:
            return
        self.detach()
        self._writer.close(self._patience)
        os.close(self._copy)
        os.close(self._master)
        self._master = self._copy = -1
        self._connected = False

    def _wait_for_program(self) -> None:
        if self._loop is None or self._reader is None or self._master < 0:
            return
        self._timer = None
        poll = select.poll()
        poll.register(self._master, 0)
        is_open = not poll.poll(0)  # POLLHUP: no program has the slave open
        if is_open:
            self._writer.open(self._loop, self._copy)
            self._reader.open(self._master)
        else:
            self._writer.close()
            self._timer = self._loop.call_later(_TICK, self._wait_for_program)
        if is_open != self._connected:
            self._connected = is_open
            self._tell()

    def _broken(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._writer.close()
        if self._timer is None:
            self._wait_for_program()
