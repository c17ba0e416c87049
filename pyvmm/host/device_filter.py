"""The system calls of a process that serves one virtio device to another VMM by vhost-user.

As those of a VM (``host/vm_filter.py``), without KVM's and vhost's requests. A front end's files are looked
at when they come (fstat(3), which is newfstatat without a path), a helper program is waited for, and at the
end everything is closed.
"""

from __future__ import annotations

from pyvmm.host import seccomp, vm_filter

CALLS = (*vm_filter.CALLS, "newfstatat", "wait4", "close_range")
IOCTLS = tuple(
    request for name, request in vm_filter.IOCTLS.items() if not name.startswith(("KVM_", "VHOST_"))
)
_AT_EMPTY_PATH = 0x1000
_AF_UNIX = 1


def program(machine: str, pid: int, *, files: bool = False, kill: bool = False) -> bytes:
    """The filter of a device's process *pid*; the parameters are those of ``vm_filter.program``."""
    only = {
        **vm_filter.NUMBERS,
        "ioctl": (1, IOCTLS),
        "tgkill": (0, (pid,)),
        "socket": (0, (_AF_UNIX,)),
    }
    if files:
        calls = (*CALLS, *(call for call in vm_filter.FILE_CALLS if call not in CALLS))
    else:
        calls = CALLS
        only["newfstatat"] = (3, (_AT_EMPTY_PATH,))
    return seccomp.program(calls, machine, only=only, errors=vm_filter.ERRORS, kill=kill)
