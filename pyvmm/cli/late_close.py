"""The end of a command whose VM has just been made: closing it then waits 20 ms in the kernel.

The last descriptor of a VM closes only when the kernel's grace periods for its interrupt
controllers are over (``kvm_destroy_vm`` in Linux virt/kvm/kvm_main.c). A command whose guest ended
sooner leaves a child behind that holds the VM until they are, and waits in its place.

The child shares memory and descriptors with this process and runs one function of the C library, so that
no page tables are copied: it is made in 0.1 ms, a fork in 1.5.
"""

from __future__ import annotations

import os
from ctypes import addressof, c_char, c_int, c_void_p, cast

from pyvmm.host.libc import function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.pykvm import Vm

#: Seconds from the making of a VM after which nothing is left to wait for.
GRACE = 0.03
# Linux include/uapi/linux/sched.h; the lowest byte of the flags is the signal that the child's end sends.
_CLONE_VM, _CLONE_FILES, _SIGCHLD = 0x100, 0x400, 17
#: The child's stack, in use when this process has ended.
_stack = (c_char * 65536)()


def close_in_child(vm: Vm) -> None:
    """Leave the closing of *vm*, which is open, to a child that outlives this process by a few milliseconds.

    For a process about to end. Whoever reads its output to the end waits for the child, too, unless the
    process closes descriptors 0 to 2. Where the host gives no child or descriptor, the process waits itself.
    """
    try:
        kept = os.dup(vm.fd)  # the machine closes its own
    except OSError:
        return
    clone: Any = function("clone")
    usleep: Any = function("usleep")
    clone.argtypes = (c_void_p, c_void_p, c_int, c_void_p)
    top = addressof(_stack) + len(_stack) & -16  # stacks are aligned to 16 bytes
    if clone(cast(usleep, c_void_p), top, _CLONE_VM | _CLONE_FILES | _SIGCHLD, int(GRACE * 1e6)) < 0:
        os.close(kept)
