"""``pyvmm ps``: the running guests of this user."""

from __future__ import annotations

import json

from pyvmm.cli.options import Option, OptionParser
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.guest import registry
from pyvmm.guest.reach import Reached
from pyvmm.host.printable import printable
from pyvmm.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds a guest's process gets to answer.
_PATIENCE = 2.0
#: What a guest tells of itself, and above which no number is believed.
_KINDS: dict[str, type] = {
    "name": str,
    "pid": int,
    "memory": int,
    "cpus": int,
    "state": str,
    "uptime": float,
}
_NUMBER_MAX = 1 << 63
_COLUMNS = ("NAME", "PID", "MEMORY", "CPUS", "STATE", "UPTIME")

OPTIONS = OptionParser(
    "pyvmm ps [--json]",
    "Lists the running guests of this user, those of pyvmm run and of pyvmm.Guest.",
    [Option("json", "", "a list of objects, for programs")],
)


def main(argv: list[str]) -> int:
    """Run ``pyvmm ps``; 0 also when no guest is running. Raises ConfigError."""
    values, arguments = OPTIONS.parse(argv)
    if arguments:
        raise ConfigError(f"{arguments[0]!r} is one word too many: {OPTIONS.usage}")
    found = [_info(name) for name in registry.names()]
    guests = [guest for guest in found if guest is not None]
    if values.get("json"):
        print(json.dumps(guests, indent=1))
        return 0
    rows = [_COLUMNS, *(_row(guest) for guest in guests)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(_COLUMNS))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _info(name: str) -> dict[str, Any] | None:
    """What a guest tells of itself; None when it has just ended."""
    try:
        with Reached(name) as reached:
            reached.send("info")
            answer = reached.answer(_PATIENCE)
    except registry.NoAnswerError:
        return {"name": name, "state": "no answer"}
    except PyvmmError:
        return None
    if answer is None or all(_fits(answer.get(key), kind) for key, kind in _KINDS.items()):
        return answer
    return {"name": name, "state": "no answer"}


def _fits(value: Any, kind: type) -> bool:
    """Whether *value* can be shown as what *kind* is; a process that is none of pyvmm's may answer too."""
    if kind is str:
        return isinstance(value, str)
    number = isinstance(value, int) or (kind is float and isinstance(value, float))
    return number and bool(0 <= value < _NUMBER_MAX)


def _row(guest: dict[str, Any]) -> tuple[str, ...]:
    if "pid" not in guest:
        return printable(guest["name"]), "-", "-", "-", guest["state"], "-"
    memory, uptime = format_size(guest["memory"]), _duration(guest["uptime"])
    name, state = printable(guest["name"]), printable(guest["state"])
    return name, str(guest["pid"]), memory, str(guest["cpus"]), state, uptime


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    return f"{whole // 86400}d{whole // 3600 % 24:02}h"
