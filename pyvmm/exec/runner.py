"""A command in the guest joined to our own standard input, output and error.

The glue between a command of an ``ExecClient`` and an event loop. With a pseudo-terminal our terminal is
put into raw mode (Ctrl-A x asks to quit); else input, output and error are passed on byte by byte, and each
is read only as fast as the other side takes it.
"""

from __future__ import annotations

import os

from pyvmm.backends.reader import DescriptorReader
from pyvmm.backends.terminal import Terminal
from pyvmm.loop import WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.exec.client import ExecClient, Run
    from pyvmm.exec.request import Request
    from pyvmm.loop import Loop

#: The output window to ask for with a pty: what ``Terminal`` takes beyond being full.
PTY_WINDOW = 4096

_SIGPIPE = 13
# A pipe that polls as writable takes this much without blocking (pipe(7)).
_PIPE_BUF = 4096


class ExecRunner:
    """Runs *request* over *client*'s link, joined to the descriptors *stdin*, *stdout* and *stderr* of ours.

    *on_exit* is called once, with the command's status, when all its output is written; a link that is lost
    is raised as ExecLostError from what gave the client its bytes. With a pty, *on_quit* is called at
    Ctrl-A x, and *stderr* is not used. Everything happens in the loop's thread.
    """

    def __init__(
        self,
        loop: Loop,
        client: ExecClient,
        request: Request,
        on_exit: Callable[[int], object],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        on_quit: Callable[[], object] | None = None,
    ) -> None:
        self._on_exit = on_exit
        self._done = False
        #: Our terminal with a pty, else None; a job's signals go to its methods.
        self.terminal: Terminal | None = None
        self._reader: DescriptorReader | None = None
        self._held = 0
        self._outputs: list[_Output] = []
        if request.pty:
            self.run = client.start(request, on_stdout=self._show, on_room=self._resume, on_exit=self._ended)
            self.terminal = Terminal(on_quit, stdin, stdout)
            self.terminal.on_ready = self._terminal_ready
            self.terminal.attach(loop, self._write, self._room)
            return
        self._outputs = [_Output(loop, fd, self._consumed, self._broken) for fd in (stdout, stderr)]
        out, err = self._outputs
        self.run = client.start(
            request,
            on_stdout=lambda run, data: out.put(data),
            on_stderr=lambda run, data: err.put(data),
            on_room=self._resume,
            on_exit=self._ended,
        )
        reader = DescriptorReader(loop, self._write, self._room, self.run.eof)
        try:
            reader.open(stdin)
            self._reader = reader
        except OSError:  # closed before we began
            self.run.eof()

    def signal(self, number: int) -> None:
        """Send signal *number*, 1 to 64, to the command's process group."""
        self.run.signal(number)

    def resized(self) -> None:
        """Our terminal's size changed (SIGWINCH): tell the command's."""
        size = self.terminal.size() if self.terminal is not None else None
        if size is not None:
            columns, lines = size
            self.run.resize(lines, columns)

    def close(self) -> None:
        """Put the terminal back and stop reading. Idempotent; nothing is called afterwards."""
        self._done = True
        if self.terminal is not None:
            self.terminal.close()
        if self._reader is not None:
            self._reader.close()
        for output in self._outputs:
            output.close()

    def _finish(self) -> None:
        status = self.run.status
        if status is None or self._done or any(output.waiting for output in self._outputs):
            return
        self.close()
        self._on_exit(status)

    def _ended(self, run: Run) -> None:
        if run.error is not None and not self._done:
            raise run.error
        self._finish()

    def _room(self) -> int:
        return self.run.room

    def _write(self, data: bytes) -> None:
        self.run.write(data)

    def _resume(self, run: Run) -> None:
        source = self.terminal or self._reader
        if source is not None:
            source.resume()

    def _show(self, run: Run, data: bytes) -> None:
        assert self.terminal is not None
        self.terminal.write(data)
        self._held += len(data)
        if self.terminal.ready:
            self._terminal_ready()

    def _terminal_ready(self) -> None:
        held, self._held = self._held, 0
        self._consumed(held)

    def _consumed(self, size: int) -> None:
        self.run.consumed(size)
        self._finish()

    def _broken(self) -> None:
        # What a local command would get that writes to a closed pipe.
        self.signal(_SIGPIPE)


class _Output:
    """One descriptor written as fast as it takes data; what waits is bounded by the request's window."""

    def __init__(
        self, loop: Loop, fd: int, written: Callable[[int], object], broken: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._written = written
        self._on_broken = broken
        self._broken = False
        self._watched = False
        self.waiting = bytearray()

    def put(self, data: bytes) -> None:
        if self._broken:
            self._written(len(data))
            return
        self.waiting += data
        if self._watched:
            return
        try:
            self._loop.add(self._fd, WRITE, self._writable)
            self._watched = True
        except OSError:  # not open
            self._fail()

    def close(self) -> None:
        if self._watched:
            self._loop.remove(self._fd)
        self._watched = False

    def _writable(self, events: int) -> None:
        try:
            size = os.write(self._fd, self.waiting[:_PIPE_BUF])
        except BlockingIOError:
            return
        except OSError:
            self._fail()
            return
        del self.waiting[:size]
        if not self.waiting:
            self.close()
        self._written(size)

    def _fail(self) -> None:
        self._broken = True
        self.close()
        size = len(self.waiting)
        self.waiting.clear()
        self._on_broken()
        self._written(size)
