"""What tests of virtio share. Each may say what it has to say: the limit on notices is per process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pyvmm.host import notice


@pytest.fixture(autouse=True)
def fresh_notices() -> Iterator[None]:
    notice.limit.sites.clear()
    yield
    notice.limit.sites.clear()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's end to read, and the one to write."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)
