"""A disk image on a file system that fills up: what the driver was told is written, is there afterwards.

Run as a program in a mount namespace of its own, with the folder to mount it at.
"""

from __future__ import annotations

import os
import sys
from ctypes import get_errno
from pathlib import Path

from pyvmm.host.libc import function
from tests.support.disks import IOERR, OK, Bench

SIZE, BLOCK = 1 << 20, 64 << 10


def main(folder: Path) -> None:
    """Write all of a sparse image of SIZE bytes where half of that is free. Raises AssertionError."""
    options = f"size={SIZE // 2}".encode()
    assert function("mount")(b"none", os.fsencode(folder), b"tmpfs", 0, options) == 0, os.strerror(
        get_errno()
    )
    path = folder / "image"
    with path.open("wb") as file:
        file.truncate(SIZE)
    written, refused = {}, []
    with Bench(path) as bench:
        for at in range(0, SIZE, BLOCK):
            data = os.urandom(BLOCK)
            status = bench.write(at // 512, data)
            if status == OK:
                written[at] = data
            else:
                assert status == IOERR, status
                refused.append(at)
        assert bench.flush() == OK
        assert bench.read(0, BLOCK) == (OK, written[0])
    assert len(written) >= 4 and len(refused) >= 8, (written.keys(), refused)
    with path.open("rb") as file:
        for at, data in written.items():
            file.seek(at)
            assert file.read(BLOCK) == data, at


if __name__ == "__main__":
    main(Path(sys.argv[1]))
