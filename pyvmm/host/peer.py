"""Who is at the other end of a UNIX socket. Source: SO_PEERCRED in unix(7).

Where pyvmm listens, the socket's mode lets this user alone connect. Where it connects, whoever was first may
listen at the path, in /tmp any user: it is asked who that is before it gets anything.
"""

from __future__ import annotations

import os
import socket
from struct import Struct

#: ``struct ucred { pid_t pid; uid_t uid; gid_t gid; }``
_UCRED = Struct("3i")


def credentials(link: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process that connected to *link*, or that listened where *link* connected to.

    A user that this process's user namespace does not map is 65534 (kernel.overflowuid).
    """
    pid, uid, _ = _UCRED.unpack(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def stranger(link: socket.socket, allowed: int | None = None) -> str:
    """Why the process that listens where *link* connected to is not trusted: a clause for a message.

    Empty for this user, for root, and for the user *allowed*.
    """
    uid = credentials(link)[1]
    if uid in (0, os.geteuid(), allowed):
        return ""
    return f"user {uid} listens there, neither you nor root"
