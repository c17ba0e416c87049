"""``pyvmm exec``: a command in a guest that another process runs, as if it were a local one."""

from __future__ import annotations

from functools import partial

from pyvmm.cli.local_terminal import LocalTerminal
from pyvmm.cli.messages import message
from pyvmm.cli.options import OptionParser
from pyvmm.errors import ConfigError
from pyvmm.exec.client import ExecClient
from pyvmm.exec.request import Request
from pyvmm.exec.runner import PTY_WINDOW, ExecRunner
from pyvmm.guest.reach import Reached
from pyvmm.loop import Loop
from pyvmm.machine.ending import CRASHED, STOPPED
from pyvmm.signals import ENDING, SIGCONT, SIGTSTP, SIGWINCH, SignalFd, heard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes of output that may be on their way.
_WINDOW = 256 << 10

OPTIONS = OptionParser(
    "pyvmm exec NAME [--] COMMAND [ARGUMENT ...]",
    "Runs a command in a running guest, with this stdin, stdout, stderr and terminal; its status is ours.\n"
    "A guest that ends before the command does gives 7. Signals go to the command; a second one leaves it.",
    [],
)


def main(argv: list[str]) -> int:
    """Run ``pyvmm exec``; the command's status. Raises ConfigError."""
    name, command = parse(argv)
    with Reached(name) as reached:
        reached.ask("exec")
        return _Conversation(reached, command).run()


def parse(argv: list[str]) -> tuple[str, list[str]]:
    """The guest's name and the command. Raises ConfigError."""
    first = argv[:1]
    if not first or first[0].startswith("-"):
        OPTIONS.parse(first)
        raise ConfigError(f"a guest's name comes first: {OPTIONS.usage}")
    command = argv[2:] if argv[1:2] == ["--"] else argv[1:]
    if not command:
        raise ConfigError(f"a command comes after the guest's name: {OPTIONS.usage}")
    return first[0], command


class _Conversation:
    """One command over one connection."""

    def __init__(self, reached: Reached, command: list[str]) -> None:
        self._name = reached.name
        self._reached = reached
        terminal = LocalTerminal()
        window = PTY_WINDOW if terminal.size else _WINDOW
        self._request = Request(command, pty=terminal.size, window=window, env=terminal.environment)
        self._status: int | None = None
        self._signalled = False

    def run(self) -> int:
        """The command's status."""
        handlers: dict[int, Callable[[int], object]] = dict.fromkeys(heard(*ENDING), self._signal)
        if self._request.pty:
            handlers |= {SIGWINCH: self._resized, SIGTSTP: self._stopped, SIGCONT: self._continued}
        with Loop() as loop, SignalFd(loop, handlers):
            self._loop = loop
            stream = self._reached.stream(loop, lambda data: client.receive(data), self._lost)
            client = ExecClient(stream.send)
            client.connect()
            self._runner = ExecRunner(
                loop,
                client,
                self._request,
                self._ended,
                stdin=0,
                stdout=1,
                stderr=2,
                on_quit=partial(self._leave, STOPPED),
            )
            if self._runner.terminal is not None:
                self._runner.terminal.quit_help = "end this command; the guest goes on"
            try:
                loop.run()
            finally:
                self._runner.close()
                stream.close()
        assert self._status is not None, "the loop runs until there is one"
        return self._status

    def _leave(self, status: int) -> None:
        self._status = status
        self._loop.stop()

    def _ended(self, status: int) -> None:
        self._leave(status)

    def _lost(self) -> None:
        if self._status is None:
            self._runner.close()
            message(f"guest {self._name!r} ended before the command had")
            self._leave(CRASHED)

    def _signal(self, number: int) -> None:
        if self._signalled:
            self._leave(128 + number)
        self._signalled = True
        self._runner.signal(number)

    def _resized(self, number: int) -> None:
        self._runner.resized()

    def _stopped(self, number: int) -> None:
        if self._runner.terminal is not None:
            self._runner.terminal.stop_job()

    def _continued(self, number: int) -> None:
        if self._runner.terminal is not None:
            self._runner.terminal.continue_job()
