"""A device in a process of its own: ``pyvmm device``."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def served(*words: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """``pyvmm device`` on *path*, listening."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pyvmm", "device", *words, "--socket", str(path)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "is served on" in line, line + process.stderr.read()
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
