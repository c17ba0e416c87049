"""The last output of a guest's consoles, and what in it is worth a closer look."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PANIC = b"Kernel panic - not syncing"
#: In the last line of a kernel that has panicked and is to stay (Linux kernel/panic.c).
PANIC_END = b"---[ end Kernel panic"
TAIL = 16384


class ConsoleLog:
    """Keeps the last 16 KiB of console output; calls *on_panic_end* after each line with PANIC_END.

    The text is no evidence: any program of the guest's can print it.
    """

    __slots__ = ("_line", "_on_panic_end", "_tail", "size")

    def __init__(self, on_panic_end: Callable[[], object]) -> None:
        self._on_panic_end = on_panic_end
        self._tail = bytearray()
        self._line = bytearray()
        #: Bytes of output so far.
        self.size = 0

    def feed(self, data: bytes) -> None:
        """Take output as it comes, in pieces of any size."""
        self.size += len(data)
        tail = self._tail
        tail += data
        if len(tail) > 2 * TAIL:
            del tail[:-TAIL]
        line = self._line
        line += data
        if b"\n" in data or len(line) > 4096:
            ended = line.rfind(b"\n") + 1
            found = line.find(PANIC_END, 0, ended)
            self._line = line[ended:] if len(line) - ended <= 4096 else line[-len(PANIC_END) :]
            if found >= 0:
                self._on_panic_end()

    def text(self) -> str:
        """The last 16 KiB of output."""
        return bytes(self._tail[-TAIL:]).decode("utf-8", "replace")
