"""The log of an emulated host: what its keeper and QEMU print, and what the host's kernel does.

It lies in memory where $XDG_RUNTIME_DIR does, so it is bounded. QEMU's serial port is its standard output: a
pipe that the keeper empties into the file.
"""

from __future__ import annotations

import os
import sys
import threading

from pyvmm.host.rotated import RotatedFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

#: Bytes of the log, and as much in the one before it. A boot says 64 KiB at most.
LIMIT = 8 << 20
_READ_SIZE = 1 << 16
#: Seconds for what is left in the pipe at the end.
_PATIENCE = 2.0


class Log:
    """From now on this process's standard output and error, and those of what it starts, go to *path*.

    A file of more than *limit* bytes is renamed to ``PATH.1`` (``RotatedFile``). Raises OSError.
    """

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self._file = RotatedFile(str(path), append=True, limit=limit)
        self._pipe, writer = os.pipe()
        self._flush(writer)
        os.close(writer)
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what was printed; what is printed afterwards goes nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        self._flush(nowhere)
        os.close(nowhere)
        self._thread.join(_PATIENCE)

    def _flush(self, fd: int) -> None:
        """Make *fd* standard output and error; what was printed before goes to the old ones."""
        sys.stdout.flush()  # standard error is at the end of each line, by Python itself
        os.dup2(fd, 1)
        os.dup2(fd, 2)

    def _copy(self) -> None:
        while data := os.read(self._pipe, _READ_SIZE):
            try:
                self._file.writev([data])
            except OSError:
                pass  # the disk is full: whoever prints is not to wait for it


def remove(path: Path) -> None:
    """Remove a log and the one before it."""
    for each in (path, path.with_name(f"{path.name}.1")):
        each.unlink(missing_ok=True)
