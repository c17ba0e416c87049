"""``pyvmm console``: a terminal on the console of a guest that another process runs."""

from __future__ import annotations

from pyvmm.backends.terminal import Terminal
from pyvmm.cli.options import OptionParser
from pyvmm.errors import ConfigError
from pyvmm.guest.reach import Reached
from pyvmm.loop import Loop
from pyvmm.signals import ENDING, SIGCONT, SIGTSTP, SignalFd, heard

#: Typed bytes on their way beyond which the terminal is not read.
_UNSENT = 65536

OPTIONS = OptionParser(
    "pyvmm console NAME",
    "Shows what the console of a running guest printed lately and follows it; what is typed goes to the\n"
    "guest. For guests without a console of their own: pyvmm run --console none, pyvmm.Guest. Several may\n"
    "be attached. Ctrl-A x leaves; the guest goes on. Ctrl-A h tells more.",
    [],
)


class AttachedTerminal(Terminal):
    """Our terminal, joined to a console that is not ours."""

    quit_help = "leave this console; the guest goes on"

    def _broken(self) -> None:
        if self.on_quit is not None:
            self.on_quit()


def main(argv: list[str]) -> int:
    """Run ``pyvmm console``; 0 when the user has left or the guest has ended. Raises ConfigError."""
    _, arguments = OPTIONS.parse(argv)
    if len(arguments) != 1:
        raise ConfigError(f"one guest's name is needed: {OPTIONS.usage}")
    with Reached(arguments[0]) as reached, Loop() as loop:
        reached.ask("console")
        terminal = AttachedTerminal(loop.stop)
        handlers = dict.fromkeys(heard(*ENDING), lambda _: loop.stop())
        handlers |= {SIGTSTP: lambda _: terminal.stop_job(), SIGCONT: lambda _: terminal.continue_job()}
        with SignalFd(loop, handlers):
            stream = reached.stream(loop, terminal.write, loop.stop)
            terminal.attach(loop, stream.send, lambda: _UNSENT - len(stream.unsent))
            try:
                loop.run()
            finally:
                stream.close()
                terminal.close()
    return 0
