"""Locks on disk images: many readers, or one writer.

The locks are those of an open file description (fcntl(2), F_OFD_SETLK): they end with the last
descriptor, however its process ends. Their bytes are the ones QEMU locks (block/file-posix.c,
qapi BlockPermission): an image that QEMU or its tools use is refused here, and the other way round.
"""

from __future__ import annotations

import errno
import os
from ctypes import Structure, byref, c_int, c_long, c_short, get_errno
from time import monotonic, sleep

from pyvmm.backends.disk.base import DiskError
from pyvmm.host.libc import function
from pyvmm.host.notice import notice

# Two bytes for each permission: processes that use it lock one (shared), those that deny it to others lock
# the other.
_USED = 100
_FORBIDDEN = 200
_READ, _WRITE, _RESIZE = 0, 1, 3
_NOT_OTHERS = (_WRITE, _RESIZE)

#: Seconds to wait for another user, whose process may be ending: closing a VM takes the kernel a while.
PATIENCE = 0.2

_F_OFD_GETLK = 36
_F_OFD_SETLK = 37
_F_RDLCK, _F_WRLCK, _F_UNLCK = 0, 1, 2
#: The errors of file systems that have no such locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_fcntl = function("fcntl")


class flock(Structure):
    """The structure of fcntl(2).

    struct flock {
        short l_type;
        short l_whence;
        __kernel_off_t l_start;
        __kernel_off_t l_len;
        __kernel_pid_t l_pid;
    };
    """

    _fields_ = [
        ("l_type", c_short),
        ("l_whence", c_short),
        ("l_start", c_long),
        ("l_len", c_long),
        ("l_pid", c_int),
    ]


def lock(fd: int, path: str, write: bool) -> None:
    """Lock the image open as *fd* for reading, or for writing too, until *fd* is closed.

    Waits PATIENCE seconds for another process to release it. Raises DiskError when the image is used in a way
    that excludes this.
    """
    uses = (_READ, _WRITE) if write else (_READ,)
    mine = [_USED + bit for bit in uses] + [_FORBIDDEN + bit for bit in _NOT_OTHERS]
    theirs = [_FORBIDDEN + bit for bit in uses] + [_USED + bit for bit in _NOT_OTHERS]
    limit = monotonic() + PATIENCE
    while not _claim(fd, path, mine, theirs):
        if monotonic() > limit:
            if write:
                what = "in use by another process; end that, or give ro here and there"
            else:
                what = "being written to by another process; end that, or let it have ro too"
            raise DiskError(f"disk {path} is {what}")
        for byte in mine:
            _call(fd, _F_OFD_SETLK, _F_UNLCK, byte)
        sleep(PATIENCE / 20)


def _claim(fd: int, path: str, mine: list[int], theirs: list[int]) -> bool:
    """Lock the bytes of *mine*; whether no other process has locked one of *theirs*."""
    # Locked first, checked after that: of two processes at the same time both may fail, never both succeed.
    for byte in mine:
        problem = _call(fd, _F_OFD_SETLK, _F_RDLCK, byte)[0]
        if problem in _NO_LOCKS:
            notice("disk lock", f"disk {path} cannot be locked where it lies; nothing else may write to it")
            return True
        if problem:
            return False
    return all(_call(fd, _F_OFD_GETLK, _F_WRLCK, byte) == (0, _F_UNLCK) for byte in theirs)


def _call(fd: int, command: int, kind: int, byte: int) -> tuple[int, int]:
    """(errno or 0, the kind of lock that is in the way)."""
    what = flock(kind, os.SEEK_SET, byte, 1, 0)
    if _fcntl(fd, command, byref(what)) < 0:
        return get_errno(), kind
    return 0, what.l_type
