"""The keys of the terminal that ``pyvmm run`` is started on, read by the parent of the VM process.

So the escape key works whatever the VM process does, and the terminal's modes are put back whatever becomes
of it.
"""

from __future__ import annotations

import os

from pyvmm.backends.terminal import Terminal
from pyvmm.loop import WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.loop import Loop

#: Bytes of keys passed on at once: what a pipe takes whole or not at all (PIPE_BUF).
_CHUNK = 4096


class Keyboard:
    """Makes descriptor 0, a terminal, the end of a pipe that the terminal's keys come out of.

    A VM process that is forked afterwards reads them there like any piped input; what it leaves is the next
    one's. *on_quit* is called at Ctrl-A x, *on_break*, unless None, at Ctrl-A b. One loop's thread. Raises
    OSError when there are no descriptors.
    """

    def __init__(self, on_quit: Callable[[], object], on_break: Callable[[], object] | None) -> None:
        self._loop: Loop | None = None
        self._watched = False
        self._stdin = os.dup(0)
        keys, self._pipe = os.pipe()
        os.set_blocking(keys, False)
        os.set_blocking(self._pipe, False)
        os.dup2(keys, 0)
        os.close(keys)
        self._terminal = Terminal(on_quit, self._stdin)
        self._terminal.on_break = on_break

    def attach(self, loop: Loop) -> None:
        """Put the terminal into raw mode and pass its keys on."""
        self._loop = loop
        self._terminal.attach(loop, self._pass_on, lambda: _CHUNK)

    def release(self) -> None:
        """Restore the terminal's modes: the job is about to stop. Idempotent."""
        self._terminal.release()

    def continue_job(self) -> None:
        """SIGCONT: raw mode again, once the job is in the foreground."""
        self._terminal.continue_job()

    def close(self) -> None:
        """Restore the terminal's modes and read no more. Idempotent."""
        self._terminal.close()
        if self._watched and self._loop is not None:
            self._loop.remove(self._pipe)
            self._watched = False
        self._close()

    def close_copy(self) -> None:
        """In the VM process: close what the fork has copied; it cannot read the terminal then.

        Its output and error, where they are terminals, are opened once more to write alone.
        """
        self._terminal.close_copy()
        self._close()
        for fd in (1, 2):
            if os.isatty(fd):
                _to_write_alone(fd)

    def _close(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            os.close(self._stdin)
            self._pipe = self._stdin = -1

    def _pass_on(self, data: bytes) -> bool:
        try:
            os.write(self._pipe, data)
        except BlockingIOError:
            assert self._loop is not None
            if not self._watched:
                self._loop.add(self._pipe, WRITE, self._room)
                self._watched = True
            return False
        return True

    def _room(self, events: int) -> None:
        assert self._loop is not None
        self._loop.remove(self._pipe)
        self._watched = False
        self._terminal.resume()


def _to_write_alone(fd: int) -> None:
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NOCTTY)
    except OSError:
        return  # another user's, as after su(1)
    os.dup2(own, fd)
    os.close(own)
