"""The file or block device that holds an image: opened, or what is wrong with it in one sentence."""

from __future__ import annotations

import errno
import os
import stat

from pyvmm.backends.disk.base import DiskError


def open_image(path: str, readonly: bool, direct: bool = False) -> int:
    """A descriptor of the image at *path*; *direct*: past the host's page cache. Raises DiskError."""
    # Without O_NONBLOCK a FIFO would wait for its other end; for files it means nothing.
    flags = (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    if direct:
        flags |= os.O_DIRECT
    try:
        if not readonly and stat.S_ISBLK(os.stat(path).st_mode):
            flags |= os.O_EXCL  # refused while it is mounted
        return os.open(path, flags)
    except OSError as error:
        number, what = error.errno, error.strerror
    if number == errno.EBUSY:
        raise DiskError(f"disk {path} is mounted or in use on this host; unmount it, or give it with ro")
    if number == errno.EINVAL and direct:
        raise DiskError(f"disk {path} lies on a file system without direct I/O; leave out direct")
    if number == errno.EISDIR:
        raise DiskError(f"disk {path} is a directory; give an image file, or share it with --share")
    if number in (errno.EACCES, errno.EROFS, errno.EPERM) and not readonly and os.access(path, os.R_OK):
        raise DiskError(f"disk {path} cannot be written: {what}; give it with ro, or change its permissions")
    if number == errno.ENOENT:
        raise DiskError(f"there is no disk {path}; make it with create=SIZE or give another path")
    raise DiskError(f"disk {path} cannot be opened: {what}; give an image file or a block device")


def is_device(fd: int, path: str) -> bool:
    """Whether the image open as *fd* is a block device. Raises DiskError for anything but that and a file."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISBLK(mode):
        return True
    if stat.S_ISREG(mode):
        return False
    what = "a directory" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a character device"
    raise DiskError(f"disk {path} is {what}; give an image file or a block device")
