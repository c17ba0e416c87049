"""Writing all of something: write(2) takes as much as it likes, of 2 GiB at most."""

from __future__ import annotations

import os


def write_all(fd: int, data: memoryview | bytes) -> None:
    """Write *data* to descriptor *fd*, which blocks. Raises OSError."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
