"""The end of a command whose VM has just been made: closing it then waits 20 ms in the kernel.

The last descriptor of a VM closes only when the kernel's grace periods for its interrupt
controllers are over (``kvm_destroy_vm`` in Linux virt/kvm/kvm_main.c). A command whose guest ended
sooner leaves a child behind that holds the descriptors until the command is gone, and waits
in its place.
"""

from __future__ import annotations

import os

#: Seconds after which nothing is left to wait for.
GRACE = 0.03


def close_in_child() -> None:
    """Fork a child that holds this process's descriptors until it has ended, and then closes them.

    For a process about to end.

    Where the host gives no child or descriptors, this process waits itself.
    """
    try:
        ours, theirs = os.pipe()
        if os.fork():
            os.close(ours)
            return  # the other end stays open until this process ends
    except OSError:
        return
    try:
        for fd in (0, 1, 2, theirs):  # whoever reads our output must not wait for the child
            os.close(fd)
        os.read(ours, 1)
    finally:
        os._exit(0)
