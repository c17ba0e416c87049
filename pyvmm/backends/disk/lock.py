"""Who may use an image at the same time: many readers, or one writer.

The locks are those of an open file description (fcntl(2), F_OFD_SETLK): they end with the last
descriptor, however its process ends. Their bytes are the ones QEMU locks (block/file-posix.c,
qapi BlockPermission): an image that QEMU or its tools use is refused here, and the other way round.
"""

from __future__ import annotations

import errno
import os
from ctypes import Structure, byref, c_int, c_long, c_short, get_errno

from pyvmm.backends.disk.base import DiskError
from pyvmm.notice import notice
from pyvmm.pykvm.libc import function

# A byte for each permission: held shared by whoever uses it, and by whoever does not allow it to others.
_USED = 100
_FORBIDDEN = 200
_READ, _WRITE, _RESIZE = 0, 1, 3

_F_OFD_GETLK = 36
_F_OFD_SETLK = 37
_F_RDLCK, _F_WRLCK, _F_UNLCK = 0, 1, 2
#: What file systems say that have no such locks.
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
    """Claim the image open as *fd* for reading, or for writing too, until *fd* is closed.

    Raises DiskError when somebody uses it in a way that excludes this.
    """
    uses = (_READ, _WRITE) if write else (_READ,)
    forbids = (_WRITE, _RESIZE)
    # Claimed first and looked at then: of two at the same time both may lose, never both win.
    mine = [_USED + bit for bit in uses] + [_FORBIDDEN + bit for bit in forbids]
    theirs = [_FORBIDDEN + bit for bit in uses] + [_USED + bit for bit in forbids]
    for byte in mine:
        problem = _call(fd, _F_OFD_SETLK, _F_RDLCK, byte)[0]
        if problem in _NO_LOCKS:
            notice(
                "disk lock", f"{path} lies where files cannot be locked; see that nothing else writes to it"
            )
            return
        if problem:
            raise _in_use(path, write)
    for byte in theirs:
        problem, kind = _call(fd, _F_OFD_GETLK, _F_WRLCK, byte)
        if problem or kind != _F_UNLCK:
            raise _in_use(path, write)


def _call(fd: int, command: int, kind: int, byte: int) -> tuple[int, int]:
    """(errno or 0, the kind of lock that is in the way)."""
    what = flock(kind, os.SEEK_SET, byte, 1, 0)
    if _fcntl(fd, command, byref(what)) < 0:
        return get_errno(), kind
    return 0, what.l_type


def _in_use(path: str, write: bool) -> DiskError:
    if write:
        return DiskError(f"disk {path} is in use by another process; end that, or give ro here and there")
    return DiskError(f"disk {path} is being written to by another process; end that, or let it have ro too")
