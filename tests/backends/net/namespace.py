"""A network of a test's own: a network namespace for this thread and those it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import get_errno

import pytest

from pyvmm.pykvm.libc import function

_CLONE_NEWNET = 0x40000000
_EPERM = 1


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


@pytest.fixture
def netns() -> Iterator[None]:
    with network_namespace():
        yield
