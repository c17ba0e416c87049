"""Image files of the host, mapped to be read."""

from __future__ import annotations

import mmap
import os
import stat

from pyvmm.boot.errors import ImageError

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def read_image(path: str, what: str) -> memoryview:
    """The bytes of the regular file at *path*, mapped, not copied.

    *what* ("kernel", "initrd", "firmware") begins every error's sentence. Raises ImageError
    for a file that is missing, unreadable, empty or not a regular file.
    """
    try:
        # Without O_NONBLOCK, opening a pipe nobody writes to would hang.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(
            f"{what} {path}: cannot be opened: {os.strerror(error.errno or 0)}; check the path"
        ) from None
    except ValueError:
        raise ImageError(f"{what} {path!r}: the name contains a zero byte; check the path") from None
    try:
        status = os.fstat(fd)
        for is_kind, kind in _KINDS:
            if is_kind(status.st_mode):
                raise ImageError(f"{what} {path}: this is {kind}; give a regular file")
        if not status.st_size:
            raise ImageError(f"{what} {path}: the file is empty; check that it was written completely")
        return memoryview(mmap.mmap(fd, status.st_size, mmap.MAP_PRIVATE, mmap.PROT_READ))
    except OSError as error:
        raise ImageError(
            f"{what} {path}: cannot be read: {os.strerror(error.errno or 0)}; check the disk"
        ) from None
    finally:
        os.close(fd)
