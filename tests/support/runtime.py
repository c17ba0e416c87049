"""A directory of control sockets of a test's own; ``runtime`` is imported by conftest files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Guests that this test and its processes start have their sockets here."""
    with TemporaryDirectory(prefix="pyvmm-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder, "pyvmm")
