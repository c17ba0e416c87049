"""A file descriptor of KVM's, and requests on it."""

from __future__ import annotations

from ctypes import Array, Structure, byref, c_int, c_uint64, get_errno
from os import close

from pyvmm.host.libc import ioctl
from pyvmm.pykvm.errors import failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self, TypeVar

    S = TypeVar("S", bound=Structure)


class Handle:
    """Owns the descriptor ``fd``, which is -1 once closed."""

    __slots__ = ("__weakref__", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            close(fd)

    def ioctl(self, request: int, argument: int | Array[Any] | None = None) -> int:
        """Make *request* and return KVM's answer, which is not negative; raises KvmError."""
        result: int = ioctl(self.fd, request, argument)
        if result < 0:
            raise failed(request, get_errno())
        return result

    def get(self, request: int, structure: type[S]) -> S:
        """The *structure* that *request* fills; raises KvmError."""
        value = structure()
        if ioctl(self.fd, request, byref(value)) < 0:
            raise failed(request, get_errno())
        return value

    def put(self, request: int, value: Structure | c_uint64 | c_int) -> int:
        """Hand *value* to *request*; KVM's answer. Raises KvmError."""
        result: int = ioctl(self.fd, request, byref(value))
        if result < 0:
            raise failed(request, get_errno())
        return result
