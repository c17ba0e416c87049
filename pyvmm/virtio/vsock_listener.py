"""The UNIX sockets behind guest sockets: PATH, where programs ask for a guest's port, and PATH_N beside it.

Sources: unix(7).
"""

from __future__ import annotations

import errno
import os
import socket
import stat

from pyvmm.virtio.errors import DeviceError

_PATH_MAX = 107  # sun_path of unix(7), less its NUL
_PORT_DIGITS = 10


class Listener:
    """A listening UNIX socket at *path*, open to this user alone.

    The file of a socket nobody listens on is replaced; ``close`` removes the file if it is still ours.
    Raises DeviceError when the path is too long, taken or not to be created.
    """

    def __init__(self, path: str) -> None:
        # The ports of guests add an underline and their number.
        longest = _PATH_MAX - 1 - _PORT_DIGITS
        if len(os.fsencode(path)) > longest:
            raise DeviceError(f"vsock: path {path} is longer than {longest} bytes; choose a shorter one")
        self.path = path
        _remove_stale(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.bind(path)
            os.chmod(path, 0o600)  # before listen: nobody can be connected yet
            self.socket.listen()
            self.socket.setblocking(False)
            status = os.lstat(path)
        except OSError as error:
            self.socket.close()
            raise DeviceError(
                f"vsock: cannot listen on {path}: {error.strerror}; choose another path"
            ) from None
        self._identity = (status.st_dev, status.st_ino)

    def connect(self, port: int) -> socket.socket:
        """A socket connected to whoever listens for guest connections to *port*. Raises OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.connect(f"{self.path}_{port}")
        except OSError:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """Listen no more. Idempotent."""
        if self.socket.fileno() < 0:
            return
        self.socket.close()
        try:
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == self._identity:
                os.unlink(self.path)
        except OSError:
            pass  # removed by somebody else


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise DeviceError(f"vsock: {path} exists and is no socket; choose another path or remove it")
    except OSError:
        return  # nothing there; bind says what else is wrong
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        problem = probe.connect_ex(path)
    if problem == errno.ECONNREFUSED:
        try:
            os.unlink(path)
        except OSError:
            pass  # bind says what is wrong
    elif problem in (0, errno.EAGAIN):
        raise DeviceError(f"vsock: somebody listens on {path} already; choose another path")
