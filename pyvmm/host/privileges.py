"""What a process gives up for good: its user, capabilities, core dumps.

Sources: prctl(2), capabilities(7).
"""

from __future__ import annotations

import os
from ctypes import byref, c_int, c_ulong, create_string_buffer, get_errno
from errno import EINVAL
from struct import pack

from pyvmm.host.libc import function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG, _SIGKILL = 1, 2, 9
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
#: struct __user_cap_header_struct's version: two words a set.
_CAPABILITY_VERSION_3 = 0x20080522


def no_new_privileges() -> None:
    """No program that this thread starts gains privileges (PR_SET_NO_NEW_PRIVS). Raises OSError."""
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def become(uid: int, gid: int) -> None:
    """Be user number *uid* and group number *gid* alone, in all threads, with no capabilities.

    For root. Raises OSError.
    """
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def no_bounding_capabilities(keep: Iterable[int] = ()) -> None:
    """This thread, and what it starts, gains no capability but *keep* any more by executing a file.

    It must have CAP_SETPCAP. Raises OSError.

    :param keep: numbers, CAP_CHOWN (0)...
    """
    for capability in sorted({*range(64)} - {*keep}):
        try:
            _prctl("PR_CAPBSET_DROP", _PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == EINVAL and capability:
                return  # the kernel has no more
            raise


def no_capabilities() -> None:
    """This thread, and what it starts, has no capability from now on. Raises OSError."""
    _prctl("PR_CAP_AMBIENT", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header, none = pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24)
    if function("capset")(create_string_buffer(header, len(header)), create_string_buffer(none, len(none))):
        _failed("capset")


def end_with_parent() -> None:
    """The kernel kills this process when the thread that made it ends (PR_SET_PDEATHSIG). Raises OSError.

    A parent that had ended before is not noticed. A new user namespace forgets it.
    """
    _prctl("PR_SET_PDEATHSIG", _PR_SET_PDEATHSIG, _SIGKILL)


def dies_with_parent() -> bool:
    """Whether the kernel kills this process when the thread that made it ends."""
    signal = c_int()
    function("prctl")(_PR_GET_PDEATHSIG, byref(signal))
    return signal.value == _SIGKILL


def not_dumpable() -> None:
    """No core dump, and no other process of this user may trace this one (PR_SET_DUMPABLE). Raises OSError.

    Its files in /proc are root's from now on.
    """
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, 0)


def _prctl(name: str, option: int, argument: int) -> None:
    if function("prctl")(option, c_ulong(argument), c_ulong(0), c_ulong(0), c_ulong(0)) < 0:
        _failed(name)


def _failed(name: str) -> None:
    number = get_errno()
    raise OSError(number, f"{name}: {os.strerror(number)}")
