"""Loop devices: a block device of this host's whose medium is a file."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def loop_device(image: Path, block_size: int) -> Iterator[str]:
    """The path of a loop device on *image* with blocks of *block_size* bytes; skips where there is none."""
    if shutil.which("losetup") is None:
        pytest.skip("there is no losetup (Debian: apt-get install mount)")
    command = ["losetup", "--find", "--show", "--sector-size", str(block_size), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no loop device can be made here: {done.stderr.strip()}")
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
