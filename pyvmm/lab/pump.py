"""Moves a command's input, output and signals between this process and a channel."""

from __future__ import annotations

import os
import select
import signal
import time

from pyvmm.lab.errors import LabLostError, LabTimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.exec.client import Run
    from pyvmm.exec.request import Request
    from pyvmm.lab.channel import LabChannel

#: Seconds from the channel's opening to its greeting; the machine was seen well just before.
_GREETING_LIMIT = 30.0
#: Signals passed on; with the next one the command is given up and killed.
_PATIENCE = 2
#: A pipe that poll(2) calls writable takes this much without blocking (PIPE_BUF).
_CHUNK = 4096
_READ_SIZE = 1 << 16


class Sink:
    """Where output goes: a file descriptor, or *memory* without one."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = fd
        self.memory = bytearray()

    def flush(self) -> int:
        """Write what can be written without blocking; returns how much. Raises OSError."""
        assert self.fd is not None
        done = os.write(self.fd, self.memory[:_CHUNK])
        del self.memory[:done]
        return done


class Pump:
    """One command on one channel.

    *stdin* is a file descriptor, bytes, or None for an empty input; *signals*, if given, a
    descriptor that yields the numbers of signals to pass on, *size* the terminal's size.
    """

    def __init__(
        self,
        channel: LabChannel,
        stdin: int | bytes | None,
        out: Sink,
        err: Sink,
        signals: int | None = None,
        size: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self._channel = channel
        self._client = channel.client
        self._run: Run
        self._stdin = stdin if isinstance(stdin, int) else None
        self._input = stdin if isinstance(stdin, bytes) else b""
        self._input_ended = self._stdin is None
        self._eof_sent = False
        self._out = out
        self._err = err
        self._signals = signals
        self._size = size
        self._asked_to_end = 0

    def run(self, request: Request, timeout: float | None = None) -> int:
        """Run *request*; its exit status.

        Raises LabTimeoutError, LabLostError, and KeyboardInterrupt for a third signal.
        """
        begun = time.monotonic()
        run = self._run = self._client.start(
            request,
            on_stdout=lambda run, data: self._take(run, self._out, data),
            on_stderr=lambda run, data: self._take(run, self._err, data),
        )
        while run.status is None or any(self._pending()):
            now = time.monotonic()
            limit = timeout
            if not self._client.ready:
                limit = _GREETING_LIMIT if timeout is None else min(timeout, _GREETING_LIMIT)
            left = None if limit is None else begun + limit - now
            if left is not None and left <= 0:
                if not self._client.ready and limit == _GREETING_LIMIT:
                    raise LabLostError(f"the emulated host did not answer within {limit:g} s")
                raise LabTimeoutError(f"the command did not end within {timeout:g} s and was killed")
            self._turn(left)
            if run.error is not None:
                raise LabLostError("the emulated host's init restarted under the command")
        return run.status

    def _pending(self) -> list[Sink]:
        return [sink for sink in (self._out, self._err) if sink.fd is not None and sink.memory]

    def _turn(self, wait: float | None) -> None:
        self._give_input()
        poller = select.poll()
        left = self._channel.flush()
        running = self._run.status is None
        if running:
            poller.register(self._channel.socket, select.POLLIN | (select.POLLOUT if left else 0))
        if running and self._stdin is not None and not self._input and self._run.room:
            poller.register(self._stdin, select.POLLIN)
        if self._signals is not None:
            poller.register(self._signals, select.POLLIN)
        sinks = {sink.fd: sink for sink in self._pending()}
        for fd in sinks:
            assert fd is not None
            poller.register(fd, select.POLLOUT)
        for fd, _ in poller.poll(None if wait is None else wait * 1000):
            if fd in sinks:
                self._write(sinks[fd])
            elif fd == self._signals:
                self._pass_signals()
            elif fd == self._stdin and running:
                self._read_stdin(fd)
            else:
                self._channel.receive()

    def _read_stdin(self, fd: int) -> None:
        try:
            self._input = os.read(fd, min(_READ_SIZE, self._run.room))
        except BlockingIOError:
            return
        except OSError:
            self._input = b""
        if not self._input:
            self._stdin = None
            self._input_ended = True

    def _give_input(self) -> None:
        if self._input:
            self._input = self._input[self._run.write(self._input) :]
        if self._input_ended and not self._input and not self._eof_sent:
            self._run.eof()
            self._eof_sent = True

    def _take(self, run: Run, sink: Sink, data: bytes) -> None:
        sink.memory += data
        if sink.fd is None:
            run.consumed(len(data))

    def _write(self, sink: Sink) -> None:
        try:
            self._run.consumed(sink.flush())
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more: the command is to know, as it would here
            self._run.consumed(len(sink.memory))
            sink.memory.clear()
            self._run.signal(signal.SIGPIPE)

    def _pass_signals(self) -> None:
        assert self._signals is not None
        for number in os.read(self._signals, 64):
            if number == signal.SIGWINCH and self._size:
                self._run.resize(*self._size())
            elif number != signal.SIGWINCH:
                self._asked_to_end += 1
                if self._asked_to_end > _PATIENCE:
                    raise KeyboardInterrupt  # the command, or the whole host, does not listen
                self._run.signal(number)
