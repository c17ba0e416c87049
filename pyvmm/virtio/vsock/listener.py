"""The UNIX sockets behind guest sockets: PATH, where programs ask for a guest's port, and PATH_N by it."""

from __future__ import annotations

import errno
import socket

from pyvmm.backends.base import BackendError
from pyvmm.backends.host_objects import HostObject
from pyvmm.backends.listener import PATH_MAX, Listener, check_path
from pyvmm.host.peer import stranger
from pyvmm.virtio.errors import DeviceError

# The ports of guests add an underline and their number.
_LONGEST = PATH_MAX - 1 - len(str(0xFFFF_FFFF))


class VsockListener(Listener, HostObject):
    """A socket that listens at *path*. Raises DeviceError when the path is too long, taken or impossible."""

    def __init__(self, path: str) -> None:
        try:
            check_path(path, _LONGEST)
            super().__init__(path)
        except BackendError as error:
            raise DeviceError(f"vsock: {error}") from None

    def connect(self, sock: socket.socket, port: int) -> None:
        """Connect *sock*, which does not block, to the program that listens for guest connections to *port*.

        Raises BlockingIOError when the program's backlog is full, PermissionError for one of another user,
        another OSError when none listens.
        """
        sock.connect(f"{self.path}_{port}")
        if why := stranger(sock):
            raise PermissionError(errno.EACCES, why)
