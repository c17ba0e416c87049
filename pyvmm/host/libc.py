"""The C library through ctypes: the calls that every request to KVM goes through.

``CDLL`` lets other Python threads run during a call; ``use_errno`` keeps each thread's errno
apart from what the interpreter does in between, for some 20 ns a call.
"""

from __future__ import annotations

from ctypes import CDLL, PyDLL, c_int, c_ulong, c_void_p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LIBC = CDLL(None, use_errno=True)

ioctl = _LIBC["ioctl"]
ioctl.argtypes = (c_int, c_ulong, c_void_p)

#: ``ioctl`` that takes arguments converted beforehand: 250 ns less a call.
bare_ioctl = _LIBC["ioctl"]

#: The same, with other Python threads kept waiting: for requests of a microsecond that belong together.
brief_ioctl = PyDLL(None, use_errno=True)["ioctl"]


def function(name: str) -> Callable[..., int]:
    """Another function of the C library, by name."""
    return _LIBC[name]
