"""A listening UNIX socket, whose client has the console."""

from __future__ import annotations

import os
import select
import socket

from pyvmm.backends.duplex import Duplex
from pyvmm.backends.listener import Listener
from pyvmm.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.loop import Loop, Timer

_ACCEPT_PAUSE = 1.0
_PATIENCE = 0.2
_BUSY = b"pyvmm: this console is in use by another client; try again when it has left\r\n"


class UnixSocket(Duplex):
    """A socket at *path*, open to this user alone, for one client at a time.

    A second client is sent one line that says so, and is disconnected. Without a client, output is dropped.
    The file of a socket on which no process listens is replaced; the socket is removed by ``close``.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._patience = _PATIENCE
        self.path = path
        self._listener: Listener | None = None
        self._client: socket.socket | None = None
        self._copy = -1  # the loop knows the client twice: for input and, as this, for output
        self._timer: Timer | None = None  # until connections are accepted again

    @property
    def connected(self) -> bool:
        """True while there is a client."""
        return self._client is not None

    def open(self) -> None:
        """Listen. Raises BackendError when the path is too long, taken or not to be created."""
        if self._listener is None:
            self._listener = Listener(self.path)

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        """Accept a client, or go on with the one that there is. Raises BackendError as ``open``."""
        reader = self._begin(loop, receive, space, self._broken)
        if self._client is not None:
            self._writer.open(loop, self._copy)
            reader.open(self._client.fileno())
        self._listen()

    def detach(self) -> None:
        """Leave the loop; the client stays connected, others wait in the listener's backlog."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._listener is not None and self._loop is not None:
            self._loop.remove(self._listener.socket.fileno())
        super().detach()

    def left(self) -> tuple[bytes, int]:
        """What is buffered, and the client."""
        return super().left()[0], -1 if self._client is None else self._client.fileno()

    def give(self, left: bytes, fd: int) -> None:
        """What is buffered, and the client that the process before had."""
        super().give(left, fd)
        if fd >= 0:
            self._client = socket.socket(fileno=fd)
            self._copy = os.dup(fd)

    def describe(self) -> str:
        """The path, as ``socket PATH``."""
        return f"socket {self.path}"

    def close(self) -> None:
        """Hang up, stop listening and remove the socket if it is still ours. Idempotent."""
        self.detach()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
            self._hang_up(self._patience)

    def _listen(self) -> None:
        self._timer = None
        if self._listener is not None and self._loop is not None:
            self._loop.add(self._listener.socket.fileno(), READ, self._accept)

    def _accept(self, events: int) -> None:
        if self._listener is None or self._loop is None or self._reader is None:
            return
        try:
            client, _ = self._listener.socket.accept()
        except BlockingIOError:
            return  # it has disconnected
        except OSError:  # no descriptor or memory left: stop asking for a while
            self._loop.remove(self._listener.socket.fileno())
            self._timer = self._loop.call_later(_ACCEPT_PAUSE, self._listen)
            return
        client.setblocking(False)
        if self._client is not None and _has_left(self._client):
            self._hang_up()  # not read yet, because the guest accepts no input
        if self._client is not None:
            with client:
                try:
                    client.send(_BUSY)
                except OSError:
                    pass
            return
        self._client = client
        self._copy = os.dup(client.fileno())
        self._writer.open(self._loop, self._copy)
        self._reader.open(client.fileno())
        self._tell()

    def _broken(self) -> None:
        self._hang_up()

    def _hang_up(self, patience: float = 0.0) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        if self._reader is not None:
            self._reader.close()
        self._writer.close(patience)
        os.close(self._copy)
        client.close()
        self._tell()


def _has_left(client: socket.socket) -> bool:
    poll = select.poll()
    poll.register(client, 0)
    return bool(poll.poll(0))
