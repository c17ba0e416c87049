"""The last output of a guest's consoles, and the kernel panic in it."""

from __future__ import annotations

from pyvmm.host.printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PANIC = b"Kernel panic - not syncing"
TAIL = 16384
#: Characters of the panic's line at most.
PANIC_LINE = 300


class ConsoleLog:
    """Keeps the last 16 KiB of console output; calls *on_panic* once, with the line of a kernel panic."""

    __slots__ = ("_line", "_on_panic", "_panicked", "_tail")

    def __init__(self, on_panic: Callable[[str], None]) -> None:
        self._on_panic = on_panic
        self._tail = bytearray()
        self._line = bytearray()
        self._panicked = False

    def feed(self, data: bytes) -> None:
        """Take output as it comes, in pieces of any size."""
        tail = self._tail
        tail += data
        if len(tail) > 2 * TAIL:
            del tail[:-TAIL]
        if self._panicked:
            return
        line = self._line
        line += data
        if b"\n" in data or len(line) > 4096:
            *whole, rest = line.split(b"\n")
            self._line = rest[-len(PANIC) :] if len(rest) > 4096 else rest
            for text in whole:
                found = text.find(PANIC)
                if found >= 0:
                    self._panicked = True
                    self._on_panic(printable(bytes(text[found : found + 4 * PANIC_LINE]), PANIC_LINE))
                    return

    def text(self) -> str:
        """The last 16 KiB of output."""
        return bytes(self._tail[-TAIL:]).decode("utf-8", "replace")
