"""A message with at most one descriptor over a UNIX socket. Source: SCM_RIGHTS in unix(7)."""

from __future__ import annotations

import _socket  # without the enums of ``socket``
import os
import sys

_INT = 4  # bytes of a descriptor


def send(link: _socket.socket, message: bytes, fd: int = -1) -> None:
    """Send *message*, and a copy of *fd* unless it is -1. Raises OSError."""
    rights = []
    if fd >= 0:
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(_INT, sys.byteorder))]
    link.sendmsg([message], rights, _socket.MSG_NOSIGNAL)


def receive(link: _socket.socket, limit: int) -> tuple[bytes, int]:
    """A message of at most *limit* bytes and its descriptor, which is the caller's, or -1.

    It is empty when the other end is gone. Further descriptors are closed. Raises OSError.
    """
    message, rights, _, _ = link.recvmsg(limit, _socket.CMSG_SPACE(_INT), _socket.MSG_CMSG_CLOEXEC)
    fds = [
        int.from_bytes(data[at : at + _INT], sys.byteorder)
        for level, kind, data in rights
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
        for at in range(0, len(data) - _INT + 1, _INT)
    ]
    for fd in fds[1:]:
        os.close(fd)
    return message, fds[0] if fds else -1
