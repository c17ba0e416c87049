"""What a process gives up for good. Source: prctl(2)."""

from __future__ import annotations

import os
from ctypes import get_errno

from pyvmm.host.libc import function

_PR_SET_NO_NEW_PRIVS = 38


def no_new_privileges() -> None:
    """No program that this thread starts gains privileges (PR_SET_NO_NEW_PRIVS). Raises OSError."""
    if function("prctl")(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0:
        number = get_errno()
        raise OSError(number, f"PR_SET_NO_NEW_PRIVS: {os.strerror(number)}")
