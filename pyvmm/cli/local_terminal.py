"""Our own terminal, as a command in a guest is told of it."""

from __future__ import annotations

import os


class LocalTerminal:
    """What is true of standard input and output when it is made."""

    def __init__(self) -> None:
        #: (rows, columns) when a command in a guest is to have a terminal: ours is one, both ways.
        self.size: tuple[int, int] | None = None
        #: What the command is told by variables.
        self.environment: dict[str, str] = {}
        if not os.isatty(0):
            return
        term = os.environ.get("TERM")
        if term:
            self.environment["TERM"] = term
        if os.isatty(1):
            size = os.get_terminal_size(0)
            self.size = size.lines, size.columns
