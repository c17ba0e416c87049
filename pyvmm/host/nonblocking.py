"""Non-blocking use of terminals and pipes that other processes have open too."""

from __future__ import annotations

import os
import stat

_PTMX = os.makedev(5, 2)


def open_again(fd: int, flags: int) -> int:
    """A descriptor of our own, non-blocking, for the terminal or pipe that *fd* is; -1 where that cannot be.

    O_NONBLOCK is an attribute of the open file, which a shell and its other jobs share with us: so the file
    is opened anew (proc(5), /proc/pid/fd). The caller closes it.

    :param flags: ``os.O_RDONLY`` or ``os.O_WRONLY``
    """
    try:
        status = os.fstat(fd)
        if not (stat.S_ISFIFO(status.st_mode) or (os.isatty(fd) and status.st_rdev != _PTMX)):
            return -1
        return os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return -1
