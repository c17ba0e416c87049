"""Landlock: a process gives up all files but those it names, for itself and what it starts.

Sources: landlock(7), Linux include/uapi/linux/landlock.h. The rights a kernel knows grow with its ABI: what
this one does not know stays allowed.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from ctypes import c_long, create_string_buffer, get_errno

from pyvmm.host.libc import function
from pyvmm.host.privileges import no_new_privileges

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
#: To look at, read, write, make, rename and remove files and directories; to control devices.
CONTENTS = READ_FILE | WRITE_FILE | READ_DIR | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG
CONTENTS |= REFER | TRUNCATE | IOCTL_DEV
#: What there is for something that is no directory.
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
#: All rights to files, by ABI from 1 on; later ones add none.
_ALL = ((1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1)
#: From ABI 4 on: to bind and to connect TCP sockets. From ABI 6 on: abstract sockets and signals of others.
_NET, _SCOPES = 3, 3

# The numbers are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

_syscall = function("syscall")


class LandlockError(Exception):
    """This kernel has no Landlock, or refuses; the sentence says what it answered."""


def abi() -> int:
    """The version that this kernel has; 0 for none."""
    return max(0, _syscall(c_long(_CREATE_RULESET), None, c_long(0), c_long(_VERSION)))


class Ruleset:
    """What stays allowed. Raises LandlockError."""

    def __init__(self) -> None:
        version = abi()
        if not version:
            raise LandlockError(f"this kernel has no Landlock: {os.strerror(get_errno())}")
        self._handled = _ALL[min(version, len(_ALL)) - 1]
        fields = [self._handled, _NET if version >= 4 else 0, _SCOPES if version >= 6 else 0]
        size = 8 * (1 if version < 4 else 2 if version < 6 else 3)
        attribute = struct.pack("<3Q", *fields)[:size]
        self._fd = _checked("landlock_create_ruleset", _CREATE_RULESET, attribute, c_long(size), c_long(0))

    def allow(self, path: str, rights: int) -> None:
        """*rights* to *path* and all below it; nothing for one that is not there. Raises LandlockError."""
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                return
            raise LandlockError(f"{path}: {error.strerror}") from None
        try:
            self.allow_open(fd, rights)
        finally:
            os.close(fd)

    def allow_open(self, fd: int, rights: int) -> None:
        """*rights* to what is open as *fd*: a file, or a directory with all below. Raises LandlockError."""
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("<Qi", rights & self._handled, fd)
        _checked("landlock_add_rule", _ADD_RULE, c_long(self._fd), c_long(_PATH_BENEATH), rule, c_long(0))

    def enforce(self) -> None:
        """From now on, for this thread and all that it starts. No new privileges. Raises LandlockError."""
        try:
            no_new_privileges()
        except OSError as error:
            raise LandlockError(str(error.strerror)) from None
        _checked("landlock_restrict_self", _RESTRICT_SELF, c_long(self._fd), c_long(0))
        os.close(self._fd)


def _checked(name: str, number: int, *arguments: bytes | c_long) -> int:
    given = [create_string_buffer(each, len(each)) if isinstance(each, bytes) else each for each in arguments]
    answer = _syscall(c_long(number), *given)
    if answer < 0:
        raise LandlockError(f"{name}: {os.strerror(get_errno())}")
    return answer
