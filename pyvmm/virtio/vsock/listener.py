"""The UNIX sockets behind guest sockets: PATH, where programs ask for a guest's port, and PATH_N by it."""

from __future__ import annotations

import socket

from pyvmm.backends.base import BackendError
from pyvmm.backends.listener import PATH_MAX, Listener, check_path
from pyvmm.virtio.errors import DeviceError

# The ports of guests add an underline and their number.
_LONGEST = PATH_MAX - 1 - len(str(0xFFFF_FFFF))


class VsockListener(Listener):
    """A socket that listens at *path*. Raises DeviceError when the path is too long, taken or impossible."""

    def __init__(self, path: str) -> None:
        try:
            check_path(path, _LONGEST)
            super().__init__(path)
        except BackendError as error:
            raise DeviceError(f"vsock: {error}") from None

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
