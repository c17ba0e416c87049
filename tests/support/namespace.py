"""A network namespace for this thread and the threads and processes it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import get_errno
from pathlib import Path

import pytest

from pyvmm.host.libc import function

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MS_MOVE = 8192
_MS_REC = 16384
_MS_PRIVATE = 1 << 18


@contextmanager
def network_namespace() -> Iterator[None]:
    """Nothing but a loopback interface inside; skips the test where that is not allowed."""
    from pyroute2 import IPRoute

    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if function("unshare")(_CLONE_NEWNET):
            pytest.skip(f"needs a network namespace: {os.strerror(get_errno())}")
        try:
            with IPRoute() as ip:
                ip.link("set", index=1, state="up")
            yield
        finally:
            assert function("setns")(before, _CLONE_NEWNET) == 0
    finally:
        os.close(before)


def leave_chroot(place: Path) -> None:
    """Make this thread's root directory the root of a mount namespace of its own; *place* is an empty folder.

    A process in a chroot, which is what runs a command in the lab, may not make user namespaces; passt does.
    """
    assert function("unshare")(_CLONE_NEWNS) == 0, os.strerror(get_errno())
    top = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.chdir("/")
    os.chroot(place)  # the working directory is outside of it now, and so is the way up
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    os.fchdir(top)
    os.close(top)
    assert function("mount")(b".", b"/", None, _MS_MOVE, None) == 0, os.strerror(get_errno())
    os.chroot(".")
    os.chdir("/")


def name_server(address: str, file: Path) -> None:
    """Have /etc/resolv.conf name *address*, for this thread and what it starts; *file* is to hold that."""
    file.write_text(f"nameserver {address}\n")
    assert function("unshare")(_CLONE_NEWNS) == 0, os.strerror(get_errno())
    for source, target, flags in (
        (b"none", b"/", _MS_REC | _MS_PRIVATE),
        (os.fsencode(file), b"/etc/resolv.conf", _MS_BIND),
    ):
        assert function("mount")(source, target, None, flags, None) == 0, os.strerror(get_errno())
