"""What a command waits for, on standard error: counted on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import threading
import time

from pyvmm.cli.messages import message, write

#: Seconds between two states of the line on a terminal, and between two lines elsewhere.
REFRESH = 0.2
INTERVAL = 15.0


class Progress:
    """Shows one state at a time and for how long it has lasted, from a thread of its own.

    :param texts: what is shown for each state
    """

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts
        self._terminal = os.isatty(2)
        self._text = ""
        self._begun = 0.0
        self._over = threading.Event()
        self._ticker: threading.Thread | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.state("")

    def state(self, name: str) -> None:
        """What is waited for now, a key of the texts; any other, such as "", ends it."""
        if self._ticker is not None:
            self._over.set()
            self._ticker.join()
            self._ticker = None
            self._show("\r\n")
        self._text = self._texts.get(name, "")
        if self._text:
            self._begun = time.monotonic()
            self._over = threading.Event()
            if not self._terminal:
                message(f"{self._text} ...")
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()

    def _tick(self) -> None:
        while not self._over.wait(REFRESH if self._terminal else INTERVAL):
            self._show("")

    def _show(self, end: str) -> None:
        line = f"{self._text} ... {time.monotonic() - self._begun:.1f} s"
        if self._terminal:
            write(f"\rpyvmm: {line}{end}")
        else:
            message(line)
