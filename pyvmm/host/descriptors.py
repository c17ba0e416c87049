"""The descriptors of this process: which it opened itself, and closing all others. Source: close_range(2)."""

from __future__ import annotations

import os
from ctypes import c_long, c_uint, get_errno

from pyvmm.host.libc import function
from pyvmm.host.syscalls import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_LAST_FD = 0xFFFFFFFF
_STANDARD = 3


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor but *keep*. Raises OSError on kernels before 5.9."""
    first, call = 0, c_long(number("close_range"))
    for fd in [*sorted(set(keep)), _LAST_FD]:
        if fd > first and function("syscall")(call, c_uint(first), c_uint(fd - 1), c_uint(0)):
            problem = get_errno()
            raise OSError(problem, f"close_range: {os.strerror(problem)}")
        first = fd + 1


def own() -> list[int]:
    """The standard ones, and those that a program which this process starts would not get.

    Python makes none that it would (PEP 446), so the others are what this process was started with.
    """
    return [fd for fd, inheritable in _open() if fd < _STANDARD or not inheritable]


def inheritable() -> list[int]:
    """Those that a program which this process starts would get, without the standard ones."""
    return [fd for fd, inheritable in _open() if fd >= _STANDARD and inheritable]


def _open() -> list[tuple[int, bool]]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append((int(name), os.get_inheritable(int(name))))
        except OSError:
            pass  # closed meanwhile: such as the directory that was listed
    return found
