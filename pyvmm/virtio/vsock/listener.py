"""The UNIX sockets behind guest sockets: PATH, where programs ask for a guest's port, and PATH_N by it."""

from __future__ import annotations

import errno
import os
import socket

from pyvmm.backends.base import BackendError
from pyvmm.backends.host_objects import HostObject
from pyvmm.backends.listener import PATH_MAX, Listener, check_path
from pyvmm.host.broker import Offer
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
        self._make = Offer(_make_here)
        self._connect = Offer(self._connect_here)

    def new_socket(self) -> socket.socket:
        """A socket to be connected to a program, which does not block. Raises OSError."""
        return socket.socket(fileno=self._make())

    def connect(self, sock: socket.socket, port: int) -> None:
        """Connect *sock*, which does not block, to the program that listens for guest connections to *port*.

        Raises BlockingIOError when the program's backlog is full, PermissionError for one of another user,
        another OSError when none listens.
        """
        os.close(self._connect(port, sock.fileno()))

    def _connect_here(self, port: int, fd: int) -> int:
        copy = os.dup(fd)
        try:
            sock = socket.socket(fileno=copy)
            try:
                if sock.family != socket.AF_UNIX:
                    raise PermissionError(errno.EACCES, "it is no UNIX socket")
                sock.setblocking(False)
                sock.connect(f"{self.path}_{port}")
                if why := stranger(sock):
                    raise PermissionError(errno.EACCES, why)
            finally:
                sock.detach()
        except BaseException:
            os.close(copy)
            raise
        return copy


def _make_here(_: int, __: int) -> int:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK).detach()
