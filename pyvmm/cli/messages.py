"""Lines on standard error.

A line is printable and bounded, and writing it does not block: a guest's or helper's text cannot drive the
terminal, and a terminal that is stopped does not stop the guest.
"""

from __future__ import annotations

import os
import select
import time

from pyvmm.host.printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.backends.base import CharBackend
    from pyvmm.config import Config
    from pyvmm.virtio.console.port import Port

#: Characters of a line at most; in bytes no more than a pipe takes at once (PIPE_BUF).
LIMIT = 1000
#: Seconds that a message waits for a standard error that takes nothing.
PATIENCE = 2.0


#: What standard error is written to, once ``keep_standard_error`` was called.
_kept: int | None = None


def keep_standard_error() -> None:
    """Open standard error for all later lines: the process is about to lose the file system."""
    global _kept
    from pyvmm.host.nonblocking import open_again

    own = open_again(2, os.O_WRONLY)
    _kept = 2 if own < 0 else own


def message(sentence: str) -> None:
    """Print one line on standard error; waits two seconds at most where nobody reads it."""
    write_line(f"pyvmm: {printable(sentence, LIMIT)}", PATIENCE)


def write_line(line: str, patience: float = 0.0) -> bool:
    """Write *line* to standard error; False when it was not taken within *patience* seconds. Any thread."""
    # In raw mode a newline alone does not go back to the first column.
    return write(line + ("\r\n" if os.isatty(2) else "\n"), patience)


def write(text: str, patience: float = 0.0) -> bool:
    """Write *text* to standard error; False when it was not taken within *patience* seconds. Any thread."""
    data = text.encode(errors="backslashreplace")
    try:
        if _kept is not None:
            return _write(_kept, data, patience)
        own = _open_again()
        try:
            return _write(2 if own < 0 else own, data, patience)
        finally:
            if own >= 0:
                os.close(own)
    except OSError:
        return True  # closed, or a full disk: there is no other place to write to


def _open_again() -> int:
    """Standard error as ``open_again`` opens it; -1 also where no module can be loaded now."""
    try:
        from pyvmm.host.nonblocking import open_again
    except (OSError, MemoryError):
        return -1
    return open_again(2, os.O_WRONLY)


def _write(fd: int, data: bytes, patience: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    end = time.monotonic() + patience
    while data:
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            return False
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
    return True


def announce(config: Config, console: CharBackend, ports: Sequence[Port]) -> None:
    """Print before the start what the user cannot know: the names of pseudo-terminals."""
    if config.console == "pty":
        message(f"the console is {console.describe()}")
    for port in ports:
        where = port.backend.describe()
        if where.startswith("pty "):
            message(f"virtio console port {port.name or port.number} is {where}")


def kernel_warning() -> str | None:
    """What a kernel meets on this host, where that is anything to be told."""
    from pyvmm.arch import native

    return native.host().kernel_warning() or None
