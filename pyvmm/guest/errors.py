"""What can go wrong while a guest is driven. Each error shows the last lines of the guest's console.

After a kernel panic they begin before the panic's line, which a long call trace may follow. All are raised in
the thread, or the task, that waits.
"""

from __future__ import annotations

from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.host.printable import printable
from pyvmm.machine.console_log import PANIC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.guest.result import Result
    from pyvmm.machine.ending import Ending

#: Lines of the console, characters of each line, and characters of a command's outputs that a message shows.
CONSOLE_LINES = 25
LINE_SHOWN = 1000
OUTPUT_SHOWN = 4000
#: After a panic: lines shown before the panic's line, and lines shown in all.
PANIC_CONTEXT = 5
PANIC_LINES = 60

_PANIC = PANIC.decode()


class NoCommandsError(ConfigError):
    """The guest has nothing that runs commands: it boots firmware, another kernel, or its own init."""


class GuestEnded(PyvmmError):
    """The guest ended, or its exec server began anew, while something was waited for.

    ``ending`` is the machine's ``Ending``; None when the guest goes on and only the command is lost.
    """

    exit_code = 7

    def __init__(self, what: str, ending: Ending | None, console: str) -> None:
        self.ending = ending
        how = "the guest's exec server began anew, as it does after it was killed (out of memory?)"
        if ending is not None:
            how = f"the guest has ended: {ending}"
        panicked = ending is not None and ending.reason == "panic"
        super().__init__(f"{what}: {how}{console_lines(console, panicked)}")


class GuestTimeout(PyvmmError, TimeoutError):
    """What was waited for did not come in time. The guest goes on.

    ``result`` is what a command of ``run`` had written until it was killed; None for other waits.
    """

    exit_code = 3

    def __init__(self, what: str, seconds: float, console: str, result: Result[Any] | None = None) -> None:
        self.result = result
        said = outputs(result) if result is not None else ""
        super().__init__(f"{what}: not within {seconds:g} s{said}{console_lines(console)}")


class CommandError(PyvmmError):
    """A command in the guest ended otherwise than asked for. ``result`` has its status and outputs."""

    exit_code = 1

    def __init__(self, sentence: str, result: Result[Any], console: str) -> None:
        self.result = result
        super().__init__(f"{sentence}{outputs(result)}{console_lines(console)}")


class UnwantedOutput(PyvmmError):
    """The console showed what it was never to show. ``match`` is the ``re.Match``."""

    exit_code = 1

    def __init__(self, what: str, match: object, console: str) -> None:
        self.match = match
        super().__init__(f"{what}{console_lines(console)}")


class GuestFileError(PyvmmError, OSError):
    """A file cannot be put into the guest or got from it. ``errno`` is *number*, the guest's."""

    exit_code = 1

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.errno = number


def last_lines(console: str, panicked: bool) -> list[str]:
    """The last lines of *console* as the guest wrote them; after a panic, from before the panic's line on."""
    lines = console.rstrip().splitlines()
    begin = max(0, len(lines) - CONSOLE_LINES)
    if not panicked:
        return lines[begin:]
    panic = next((number for number, line in enumerate(lines) if _PANIC in line), len(lines))
    shown = lines[min(begin, max(0, panic - PANIC_CONTEXT)) :]
    if len(shown) > PANIC_LINES:
        left_out = len(shown) - PANIC_LINES
        shown[PANIC_LINES - CONSOLE_LINES : -CONSOLE_LINES] = [f"... ({left_out} lines)"]
    return shown


def console_lines(console: str, panicked: bool = False) -> str:
    """The end of a message: the last lines of *console*, printable."""
    lines = last_lines(console, panicked)
    if not lines:
        return "\nthe guest's console shows nothing"
    return "\n".join(["\nthe last lines of the guest's console:", *map(_shown, lines)])


def outputs(result: Result[Any]) -> str:
    """Both outputs of a command, each cut to its end when it is long."""
    text = ""
    for name, data in (("standard output", result.stdout), ("standard error", result.stderr)):
        shown = data if isinstance(data, str) else data.decode(errors="replace")
        if shown:
            cut = f" (its last {OUTPUT_SHOWN} characters)" if len(shown) > OUTPUT_SHOWN else ""
            lines = shown[-OUTPUT_SHOWN:].rstrip().splitlines()
            text += "\n".join([f"\n{name}{cut}:", *map(_shown, lines)])
    return text


def _shown(line: str) -> str:
    """A line of the guest's with its indentation and nothing that drives a terminal."""
    indentation = len(line) - len(line.lstrip(" "))
    return " " * min(indentation, LINE_SHOWN) + printable(line, LINE_SHOWN)
