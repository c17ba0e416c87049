"""A command in the guest joined to our own standard input, output and error.

The glue between an ``ExecSession`` and an event loop, for a machine's serial port and for the
lab's sockets alike. With a pseudo-terminal our terminal is put into raw mode (Ctrl-A x
asks to quit); else input, output and error are passed on byte by byte, and each is read only as
fast as the other side takes it.
"""

from __future__ import annotations

import os

from pyvmm.backends.inlet import Inlet
from pyvmm.backends.terminal import Terminal
from pyvmm.errors import GuestError
from pyvmm.exec import session as execproto
from pyvmm.exec.session import ExecSession
from pyvmm.loop import WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.exec.session import Request
    from pyvmm.loop import Loop

#: The output window to ask for with a pty: what ``Terminal`` takes beyond being full.
PTY_WINDOW = 4096

_SIGPIPE = 13
# A pipe that polls as writable takes this much without blocking (pipe(7)).
_PIPE_BUF = 4096


class ExecLostError(GuestError):
    """The guest's exec server began anew while a command was running."""


class ExecRunner:
    """Runs *request* over a link: ``write(data)`` sends to the guest, ``receive`` takes from it.

    *on_exit* is called once, with the command's status, when all its output is written. With
    a pty, *on_quit* is called at Ctrl-A x. Everything happens in the loop's thread.
    """

    def __init__(
        self,
        loop: Loop,
        write: Callable[[bytes], object],
        request: Request,
        on_exit: Callable[[int], object],
        *,
        on_quit: Callable[[], object] | None = None,
        stdin: int = 0,
        stdout: int = 1,
        stderr: int = 2,
    ) -> None:
        self._write = write
        self._on_exit = on_exit
        self._status: int | None = None
        self._done = False
        self._stdin = stdin
        self.session = ExecSession()
        self.session.run(request)
        #: Our terminal with a pty, else None; a job's signals go to its methods.
        self.terminal: Terminal | None = None
        self._inlet: Inlet | None = None
        self._held = 0
        self._outputs: dict[int, _Output] = {}
        if request.pty:
            self.terminal = Terminal(on_quit, stdin, stdout)
            self.terminal.on_ready = self._terminal_ready
            self.terminal.attach(loop, self._send_stdin, self._room)
        else:
            for event, fd in ((execproto.STDOUT, stdout), (execproto.STDERR, stderr)):
                self._outputs[event] = _Output(loop, fd, self._consumed, self._broken)
            inlet = Inlet(loop, self._send_stdin, self._room, self._eof)
            try:
                inlet.open(stdin)
                self._inlet = inlet
            except OSError:  # closed before we began
                self.session.eof()
        loop.call_soon(self._flush)

    def receive(self, data: bytes) -> None:
        """Bytes from the guest. Raises ExecProtocolError or ExecLostError."""
        for event, value in self.session.feed(data):
            if event == execproto.ROOM:
                source = self.terminal or self._inlet
                if source is not None:
                    source.resume()
            elif event == execproto.EXIT:
                assert isinstance(value, int)
                self._status = value
            elif event == execproto.LOST:
                raise ExecLostError(
                    "the guest's exec server began anew while the command was running, as it does after it "
                    "was killed; look for the reason on the guest's console (out of memory?)"
                )
            elif isinstance(value, bytes):
                self._show(event, value)
        self._flush()
        self._finish()

    def signal(self, number: int) -> None:
        """Send a signal to the command."""
        self.session.signal(number)
        self._flush()

    def resized(self) -> None:
        """Our terminal's size changed (SIGWINCH): tell the command's."""
        size = os.get_terminal_size(self._stdin)
        self.session.resize(size.lines, size.columns)
        self._flush()

    def close(self) -> None:
        """Put the terminal back and stop reading. Idempotent; nothing is called afterwards."""
        self._done = True
        if self.terminal is not None:
            self.terminal.close()
        if self._inlet is not None:
            self._inlet.close()
        for output in self._outputs.values():
            output.close()

    def _flush(self) -> None:
        data = self.session.outgoing()
        if data and not self._done:
            self._write(data)

    def _finish(self) -> None:
        if self._status is None or self._done or any(output.waiting for output in self._outputs.values()):
            return
        self.close()
        self._on_exit(self._status)

    def _room(self) -> int:
        return self.session.stdin_room

    def _send_stdin(self, data: bytes) -> None:
        self.session.send_stdin(data)
        self._flush()

    def _eof(self) -> None:
        self.session.eof()
        self._flush()

    def _show(self, event: int, data: bytes) -> None:
        if self.terminal is None:
            self._outputs[event].put(data)
            return
        self.terminal.write(data)
        self._held += len(data)
        if self.terminal.ready:
            self._terminal_ready()

    def _terminal_ready(self) -> None:
        held, self._held = self._held, 0
        self._consumed(held)

    def _consumed(self, size: int) -> None:
        self.session.consumed(size)
        self._flush()
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
