"""Our own terminal, as a command in a guest is told of it."""

from __future__ import annotations

import os


def terminal_size() -> tuple[int, int] | None:
    """(rows, columns) when a command in a guest is to have a terminal: ours is one, both ways."""
    if not (os.isatty(0) and os.isatty(1)):
        return None
    size = os.get_terminal_size(0)
    return size.lines, size.columns


def environment() -> dict[str, str]:
    """What it is told by variables."""
    term = os.environ.get("TERM")
    return {"TERM": term} if term and os.isatty(0) else {}
