"""Linux guests with disks: the tool they run, images, and checks of the image afterwards."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

from pyvmm.images import cpio
from tests.support import native

#: Seconds a guest gets; an emulated host takes 10 to boot one, a busy one several times that.
LIMIT = 180
_MAX_FILE = 20000


def tool(folder: Path) -> Path:
    """An initrd with firmware/guest/tools/disk as /bin/disk, in *folder*."""
    path = folder / "disk.cpio"
    program = native.program("disk").read_bytes()
    path.write_bytes(cpio.archive([cpio.file("bin/disk", program, 0o755)]))
    return path


def command(initrd: Path, shell: str, *options: str) -> list[str]:
    """``pyvmm run --exec`` as a user calls it."""
    run = [sys.executable, "-m", "pyvmm", "run", "--timeout", str(LIMIT), "--initrd", str(initrd)]
    return [*run, *options, "--exec", shell]


def ext4(path: Path, size: str = "64M") -> Path:
    """An empty ext4 file system."""
    subprocess.run(["truncate", "-s", size, path], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
    return path


def check(image: Path) -> None:
    """Replay the journal, as mounting would, and assert that nothing else is to be repaired."""
    subprocess.run(["e2fsck", "-y", "-E", "journal_only", image], capture_output=True, check=False)
    done = subprocess.run(["e2fsck", "-f", "-n", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def files(image: Path, directory: str, place: Path) -> dict[int, bytes]:
    """The files that ``disk files`` made in *directory* of the ext4 file system, by number."""
    place.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump /{directory} {place}", image], capture_output=True, check=True)
    return {int(path.name): path.read_bytes() for path in (place / directory).iterdir()}


def expected(number: int) -> bytes:
    """What ``disk files`` puts into file *number*: at *at*, the low byte of 31 number + 7 at + (at >> 8)."""
    size = 1 + number * 7919 % _MAX_FILE
    rows = [_row(number * 31 + row * (7 * 256 + 1) & 0xFF) for row in range((size >> 8) + 1)]
    return b"".join(rows)[:size]


@cache
def _row(first: int) -> bytes:
    return bytes(first + at * 7 & 0xFF for at in range(256))
