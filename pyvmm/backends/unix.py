"""A listening UNIX socket; whoever connects has the console."""

from __future__ import annotations

import errno
import os
import select
import socket
import stat

from pyvmm.backends.base import BackendError, CharBackend
from pyvmm.backends.inlet import Inlet
from pyvmm.backends.outlet import Outlet
from pyvmm.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.loop import Loop

_PATH_MAX = 107  # sun_path of unix(7), less its NUL
_ACCEPT_PAUSE = 1.0
_BUSY = b"pyvmm: this console is in use by another client; try again when it has left\r\n"


class UnixSocket(CharBackend):
    """A socket at *path*, open to this user alone, for one client at a time.

    A second client gets one line that says so, and is closed. Without a client, output is dropped.
    The file of a socket nobody listens on is replaced; the socket is removed by ``close``.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._loop: Loop | None = None
        self._listener: socket.socket | None = None
        self._identity = (0, 0)
        self._client: socket.socket | None = None
        self._copy = -1  # the loop knows the client twice: for input and, as this, for output
        self._inlet: Inlet | None = None
        self._outlet = Outlet(self, self._disconnected)

    @property
    def connected(self) -> bool:
        """True while there is a client."""
        return self._client is not None

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        """Listen. Raises BackendError when the path is too long, taken or not to be created."""
        if len(os.fsencode(self.path)) > _PATH_MAX:
            raise BackendError(
                f"socket path {self.path} is longer than {_PATH_MAX} bytes; choose a shorter one"
            )
        self._remove_stale()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self.path)
            os.chmod(self.path, 0o600)  # before listen: nobody can be connected yet
            listener.listen()
            listener.setblocking(False)
            status = os.lstat(self.path)
        except OSError as error:
            listener.close()
            raise BackendError(
                f"cannot listen on socket {self.path}: {error.strerror}; choose another path"
            ) from None
        self._identity = (status.st_dev, status.st_ino)
        self._listener = listener
        self._loop = loop
        self._inlet = Inlet(loop, receive, space, self._disconnected)
        self._listen()

    def write(self, data: bytes) -> None:
        """Send *data* to the client."""
        self._outlet.write(data)

    def offer(self, views: Sequence[memoryview]) -> int:
        """Give the client what it takes of *views* now."""
        return self._outlet.offer(views)

    def resume(self) -> None:
        """The device has room for input again."""
        if self._inlet is not None:
            self._inlet.resume()

    def describe(self) -> str:
        """The path, as ``socket PATH``."""
        return f"socket {self.path}"

    def close(self) -> None:
        """Hang up, stop listening and remove the socket if it is still ours. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is None or self._loop is None:
            return
        self._loop.remove(listener.fileno())
        listener.close()
        try:
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == self._identity:
                os.unlink(self.path)
        except OSError:
            pass  # removed by somebody else
        self._hang_up(patience=0.2)

    def _remove_stale(self) -> None:
        try:
            if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
                raise BackendError(f"{self.path} exists and is no socket; choose another path or remove it")
        except OSError:
            return  # nothing there; bind says what else is wrong
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            problem = probe.connect_ex(self.path)
        if problem == errno.ECONNREFUSED:
            try:
                os.unlink(self.path)
            except OSError:
                pass  # bind says what is wrong
        elif problem in (0, errno.EAGAIN):
            raise BackendError(f"somebody listens on socket {self.path} already; choose another path")

    def _listen(self) -> None:
        if self._listener is not None and self._loop is not None:
            self._loop.add(self._listener.fileno(), READ, self._accept)

    def _accept(self, events: int) -> None:
        if self._listener is None or self._loop is None or self._inlet is None:
            return
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return  # it left again
        except OSError:  # no descriptor or memory left: stop asking for a while
            self._loop.remove(self._listener.fileno())
            self._loop.call_later(_ACCEPT_PAUSE, self._listen)
            return
        client.setblocking(False)
        if self._client is not None and _has_left(self._client):
            self._hang_up()  # not noticed yet, because the guest takes no input
        if self._client is not None:
            with client:
                try:
                    client.send(_BUSY)
                except OSError:
                    pass
            return
        self._client = client
        self._copy = os.dup(client.fileno())
        self._outlet.open(self._loop, self._copy)
        self._inlet.open(client.fileno())
        self._tell()

    def _disconnected(self) -> None:
        self._hang_up()

    def _hang_up(self, patience: float = 0.0) -> None:
        client, self._client = self._client, None
        if client is None or self._inlet is None:
            return
        self._inlet.close()
        self._outlet.close(patience)
        os.close(self._copy)
        client.close()
        self._tell()

    def _tell(self) -> None:
        if self.on_connect is not None:
            self.on_connect()


def _has_left(client: socket.socket) -> bool:
    poll = select.poll()
    poll.register(client, 0)
    return bool(poll.poll(0))
