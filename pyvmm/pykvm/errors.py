"""The error of a failed request to KVM."""

from __future__ import annotations

import errno as _errno
from os import strerror

from pyvmm.errors import StartError


class KvmError(StartError):
    """A request to KVM failed.

    ``ioctl`` is the request's name (``KVM_CREATE_VCPU``), or what else was tried (``opening /dev/kvm``);
    ``errno`` is the error number, 0 where there is none.
    """

    def __init__(self, ioctl: str, errno: int, advice: str) -> None:
        self.ioctl = ioctl
        self.errno = errno
        if errno:
            what = f"{ioctl} failed with {_errno.errorcode.get(errno, errno)} ({strerror(errno)})"
        else:
            what = f"{ioctl} failed"
        super().__init__(f"{what}: {advice}" if advice else what)


def failed(request: int, code: int) -> KvmError:
    """The error for *request*, a number from the ``ioctls`` modules, that ended with errno *code*."""
    from pyvmm.pykvm import advice

    name = advice.name_of(request)
    return KvmError(name, code, advice.for_failure(name, code))
