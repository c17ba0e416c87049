"""Listening UNIX sockets at paths of the user's. Source: unix(7)."""

from __future__ import annotations

import errno
import os
import socket
import stat

from pyvmm.backends.base import BackendError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes a socket's path may have: sun_path less its NUL.
PATH_MAX = 107


class Listener:
    """A socket of *kind* that listens at *path*, open to this user alone; ``accept`` does not block.

    The file of a socket on which no process listens is replaced; ``close`` removes the file if it is ours.
    Raises BackendError when the path is too long, taken or not to be created.
    """

    def __init__(self, path: str, kind: int = socket.SOCK_STREAM) -> None:
        check_path(path)
        self.path = path
        _remove_stale(path, kind)
        self.socket = socket.socket(socket.AF_UNIX, kind)
        self._remove: Callable[[], object] = self._remove_file
        try:
            self.socket.bind(path)
            os.chmod(path, 0o600)  # before listen: no client can be connected yet
            self.socket.listen()
            self.socket.setblocking(False)
            self._file = os.lstat(path)
        except OSError as error:
            self.socket.close()
            raise BackendError(
                f"cannot listen on socket {path}: {error.strerror}; choose another path"
            ) from None

    def remove_from_outside(self) -> None:
        """From now on another process removes the file: at ``close``, or when this process ends without it.

        For a process that is about to lose the file system. It must have one thread. Raises OSError.
        """
        from pyvmm.host.afterwards import afterwards

        self._remove = afterwards(self._remove)

    def close(self) -> None:
        """Listen no more. Idempotent."""
        if self.socket.fileno() < 0:
            return
        self.socket.close()
        self._remove()

    def _remove_file(self) -> None:
        try:
            if os.path.samestat(os.lstat(self.path), self._file):
                os.unlink(self.path)
        except OSError:
            pass  # another process removed it


def check_path(path: str, most: int = PATH_MAX) -> None:
    """Raise BackendError for a *path* of more than *most* bytes."""
    if len(os.fsencode(path)) > most:
        raise BackendError(f"socket path {path} is longer than {most} bytes; choose another path")


def private_pair() -> tuple[socket.socket, socket.socket]:
    """A listening socket for a program to inherit, and a connection to it; no other process can connect.

    Raises BackendError.
    """
    import tempfile

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with tempfile.TemporaryDirectory(prefix="pyvmm-") as folder:  # open to this user alone
            listener.bind(f"{folder}/socket")
            listener.listen(1)
            link.connect(f"{folder}/socket")
    except OSError as error:
        listener.close()
        link.close()
        raise BackendError(
            f"no socket can be made in {tempfile.gettempdir()}: {error.strerror or error}; set TMPDIR to a "
            "directory with room and a short path"
        ) from None
    return listener, link


def _remove_stale(path: str, kind: int) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise BackendError(f"{path} exists and is no socket; choose another path or remove it")
    except OSError:
        return  # nothing there; bind reports what else is wrong
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        problem = probe.connect_ex(path)
    if problem == errno.ECONNREFUSED:
        try:
            os.unlink(path)
        except OSError:
            pass  # bind reports what is wrong
    elif problem in (0, errno.EAGAIN):
        raise BackendError(f"somebody listens on socket {path} already; choose another path")
