"""A process of another user that listens on a UNIX socket. Needs root."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Debian's nobody.
UID = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@contextmanager
def listening(path: Path, kind: int = socket.SOCK_STREAM) -> Iterator[None]:
    """While a process of user UID listens at *path*, in a directory of root's."""
    ready, done = os.pipe()
    with socket.socket(socket.AF_UNIX, kind) as listener:
        listener.bind(str(path))
        child = os.fork()
        if not child:
            try:
                os.setresuid(UID, UID, UID)
                listener.listen()  # what SO_PEERCRED tells is who did this
                os.write(done, b"x")
                signal.pause()
            finally:
                os._exit(1)
    os.close(done)
    try:
        if os.read(ready, 1) != b"x":
            pytest.skip("root can become no other user here: its user namespace has this one alone")
        yield
    finally:
        os.close(ready)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
