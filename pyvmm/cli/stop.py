"""``pyvmm stop``: end a guest that another process runs."""

from __future__ import annotations

from pyvmm.cli.messages import message
from pyvmm.cli.options import Option, OptionParser
from pyvmm.errors import ConfigError
from pyvmm.guest.control import STOP_MAX
from pyvmm.guest.reach import Reached
from pyvmm.machine.ending import OK, STOPPED
from pyvmm.units import parse_seconds

OPTIONS = OptionParser(
    "pyvmm stop NAME [--timeout TIME]",
    "Presses the power button of a running guest, and stops it when it has not ended in time. The exit code\n"
    "is 0 when it ended by itself, 3 when it had to be stopped.",
    [Option("timeout", "TIME", "how long the guest gets to shut down; 0 stops it at once [30s]")],
)


def main(argv: list[str]) -> int:
    """Run ``pyvmm stop``; 0 when the guest has ended by itself, 3 when it was stopped. Raises ConfigError."""
    values, arguments = OPTIONS.parse(argv)
    if len(arguments) != 1:
        raise ConfigError(f"one guest's name is needed: {OPTIONS.usage}")
    given = str(values.get("timeout", "30s"))
    timeout = 0.0 if given == "0" else parse_seconds(given, "timeout")
    if timeout > STOP_MAX:
        raise ConfigError(f"timeout: {timeout:g} seconds are too long; give at most {STOP_MAX:g}")
    with Reached(arguments[0]) as reached:
        reached.ask("stop", timeout=timeout)
        answer = reached.answer(None)
    ending = (answer or {}).get("ending")
    stopped = isinstance(ending, dict) and ending.get("code") == STOPPED
    if stopped and timeout:
        message(f"guest {arguments[0]!r} did not react to its power button and was stopped")
    return STOPPED if stopped else OK
