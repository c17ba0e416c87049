"""A command that runs in the guest, with the shape of ``subprocess.Popen``."""

from __future__ import annotations

import codecs
import signal as signals
from typing import AnyStr, Generic

from pyvmm.errors import ConfigError
from pyvmm.exec.client import ExecLostError
from pyvmm.guest.commands import INPUT_MAX, STDERR, STDOUT
from pyvmm.guest.errors import GuestEnded, GuestTimeout
from pyvmm.guest.watch import Until, deadline_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from pyvmm.guest.commands import Command, Commands
    from pyvmm.guest.watch import Waits, Watch

_CHUNK = 64 << 10


class Running:
    """One command and what is needed to wait for it."""

    def __init__(
        self, watch: Watch, commands: Commands, command: Command, name: str, tail: Callable[[], str]
    ):
        self.watch = watch
        self.commands = commands
        self.command = command
        self.name = name
        self.tail = tail

    def until(self, predicate: Callable[[], object], deadline: float | None = None) -> Until:
        """A wait that the machine's and the command's end end too."""
        return Until(lambda: predicate() or self.commands.ending or self.command.over, deadline)

    def check(self) -> None:
        """Raise what ended the command without a status: GuestEnded, or why it was not started."""
        command = self.command
        if command.status is not None:
            return
        if command.error is not None and not isinstance(command.error, ExecLostError):
            raise command.error
        if command.error is not None or self.commands.ending is not None:
            raise GuestEnded(self.name, self.commands.ending, self.tail())

    def writing(self, data: bytes, deadline: float | None) -> Waits[bool]:
        """Write all of *data*; what the command does not read before it ends is dropped. False: too late.

        Raises GuestEnded.
        """
        command = self.command
        view = memoryview(data)
        while len(view):
            free = yield self.until(lambda: command.pending < INPUT_MAX, deadline)
            self.check()
            if not free:
                return False
            if command.over:
                return True
            command.write(bytes(view[:_CHUNK]))
            view = view[_CHUNK:]
        return True

    def ending(self, deadline: float | None) -> Waits[bool]:
        """Wait for the command's end. False: not before *deadline*. Raises GuestEnded."""
        ended = yield self.until(lambda: False, deadline)
        self.check()
        return bool(ended)


class Process(Generic[AnyStr]):
    """A command in the guest. A context manager: leaving the block kills a command that still runs.

    ``stdin``, ``stdout`` and ``stderr`` are ``str`` streams, or of ``bytes`` with ``text=False``. What the
    command writes waits in the guest until it is read here: a command that writes much stops until then.
    """

    def __init__(self, running: Running, text: bool) -> None:
        self._running = running
        self._command = running.command
        self.stdin: ProcessInput[AnyStr] = ProcessInput(running)
        self.stdout: ProcessOutput[AnyStr] = ProcessOutput(running, STDOUT, text)
        self.stderr: ProcessOutput[AnyStr] = ProcessOutput(running, STDERR, text)

    def __enter__(self) -> Process[AnyStr]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.poll() is None:
            self._command.abandon()

    def __repr__(self) -> str:
        status = self.poll()
        return f"<{self._running.name}: {'running' if status is None else f'status {status}'}>"

    def poll(self) -> int | None:
        """The status when it has ended, else None."""
        return self._command.status

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end: the exit status, or 128 + the signal that ended it.

        A command that writes more than its window must be read meanwhile. Raises GuestTimeout, GuestEnded.
        """
        return self._running.watch.drive(self._waiting(timeout))

    async def wait_async(self, timeout: float | None = None) -> int:
        """``wait``, awaited."""
        return await self._running.watch.drive_async(self._waiting(timeout))

    def signal(self, number: int | str) -> None:
        """Send a signal to the command's process group, by number or name (``"HUP"``). Raises ConfigError."""
        self._command.send_signal(signal_number(number))

    def terminate(self) -> None:
        """Send SIGTERM. Raises as ``signal``."""
        self.signal(signals.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL. Raises as ``signal``."""
        self.signal(signals.SIGKILL)

    def _waiting(self, timeout: float | None) -> Waits[int]:
        if not (yield from self._running.ending(deadline_of(timeout))):
            raise GuestTimeout(self._running.name, timeout or 0.0, self._running.tail())
        assert self._command.status is not None, "check has seen to that"
        return self._command.status


class ProcessInput(Generic[AnyStr]):
    """The standard input of a command."""

    def __init__(self, running: Running) -> None:
        self._running = running
        #: Whether ``close`` was called.
        self.closed = False

    def write(self, data: AnyStr, timeout: float | None = None) -> int:
        """Write all of *data*; returns its length. Waits while much is on its way.

        Raises BrokenPipeError when the command has ended or this is closed, GuestTimeout, GuestEnded.
        """
        running = self._running
        if self.closed or running.command.over:
            running.check()
            raise BrokenPipeError(f"{running.name}: its standard input is closed")
        raw = data.encode() if isinstance(data, str) else bytes(data)
        if not running.watch.drive(running.writing(raw, deadline_of(timeout))):
            raise GuestTimeout(f"{running.name} was to read its input", timeout or 0.0, running.tail())
        return len(data)

    def close(self) -> None:
        """End of input. Idempotent."""
        if not self.closed:
            self.closed = True
            self._running.command.close_input()


class ProcessOutput(Generic[AnyStr]):
    """The standard output or error of a command. Iterating gives lines. One reader at a time.

    *stream* is STDOUT or STDERR.
    """

    def __init__(self, running: Running, stream: int, text: bool) -> None:
        self._running = running
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace") if text else None
        self._held: AnyStr = "" if text else b""  # type: ignore[assignment]
        self._ended = False

    def read(self, size: int = -1, timeout: float | None = None) -> AnyStr:
        """*size* characters or bytes, less only at the end; without *size*, all until the end.

        Raises GuestTimeout, GuestEnded; what was read before that is kept for the next call.
        """
        return self._running.watch.drive(
            self._reading(lambda held: size if 0 <= size <= len(held) else 0, timeout)
        )

    def read1(self, timeout: float | None = None) -> AnyStr:
        """What there is, as soon as there is some; empty at the end. Raises as ``read``."""
        return self._running.watch.drive(self._reading(len, timeout))

    def readline(self, timeout: float | None = None) -> AnyStr:
        """A line with its newline; without one only at the end, where it may be empty. Raises as ``read``."""
        return self._running.watch.drive(self._reading(_line, timeout))

    def __iter__(self) -> Iterator[AnyStr]:
        while line := self.readline():
            yield line

    def _reading(self, enough: Callable[[AnyStr], int], timeout: float | None) -> Waits[AnyStr]:
        """Read until *enough* says how much of what is held to give, or to the end."""
        running, command, stream = self._running, self._running.command, self._stream
        deadline = deadline_of(timeout)
        while True:
            size = enough(self._held)
            if size or self._ended:
                size = size or len(self._held)
                given, self._held = self._held[:size], self._held[size:]
                return given
            came = yield running.until(lambda: command.output[stream], deadline)
            data = command.take(stream, _CHUNK)
            if not data:
                running.check()
                if not came:
                    raise GuestTimeout(f"{running.name} was to write", timeout or 0.0, running.tail())
                self._ended = True
            if self._decoder is None:
                self._held += data  # type: ignore[operator]
            else:
                self._held += self._decoder.decode(data, self._ended)  # type: ignore[operator]


def _line(held: str | bytes) -> int:
    """The length of the first line; 0 without a whole one."""
    return (held.find("\n") if isinstance(held, str) else held.find(b"\n")) + 1


def signal_number(signal: int | str) -> int:
    """The number of a signal given by number or by name, with SIG or without. Raises ConfigError."""
    if isinstance(signal, int) and 0 <= signal <= 64:
        return int(signal)
    if isinstance(signal, str):
        name = signal.upper()
        found = getattr(signals, name if name.startswith("SIG") else f"SIG{name}", None)
        if isinstance(found, signals.Signals):
            return int(found)
    raise ConfigError(f"{signal!r} is no signal; give a number from 0 to 64, or a name such as TERM")
