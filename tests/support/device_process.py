"""A device in a process of its own: ``pyvmm device``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def served(
    *words: str, path: Path, user: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """``pyvmm device`` on *path*, listening; as *user*, by root; with more in its *environment*."""
    program = ["pyvmm", "device"] if user is None else ["tests.support.device_as_user", str(user)]
    process = subprocess.Popen(
        [sys.executable, "-m", *program, *words, "--socket", str(path)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "is served on" in line, line + process.stderr.read()
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
