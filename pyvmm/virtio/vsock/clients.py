"""Programs on the host that have connected to PATH and not named a port of the guest's yet.

By the convention that Firecracker began, a program writes ``CONNECT PORT`` and a newline; it reads
``OK HOSTPORT`` and a newline when the guest has accepted, and has the stream then.
"""

from __future__ import annotations

import socket

from pyvmm.loop import READ
from pyvmm.virtio.vsock.deadlines import Deadlines
from pyvmm.virtio.vsock.packet import PORT_ANY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.virtio.runtime import Runtime
    from pyvmm.virtio.vsock.listener import VsockListener

#: Bytes of the longest line a client may send: the word, a space, ten digits, a line's end.
LINE_MAX = len("CONNECT 4294967295\r\n")
#: Seconds a client gets to say where to.
PATIENCE = 5.0
#: Seconds until connections are accepted again after the host had no descriptor or memory.
ACCEPT_PAUSE = 1.0


class Client:
    """A program that connected to PATH and has not said yet where to."""

    __slots__ = ("line", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.line = b""

    def read_port(self) -> int | None:
        """The port it asks for; None when its line is not complete yet.

        What follows the line stays in the socket: it belongs to the stream. Raises ValueError for a line
        that is none, OSError or EOFError for a client that left.
        """
        try:
            seen = self.sock.recv(LINE_MAX - len(self.line), socket.MSG_PEEK)
            if not seen:
                raise EOFError
            end = seen.find(b"\n") + 1
            self.line += self.sock.recv(end or len(seen))
        except BlockingIOError:
            return None
        if not end and len(self.line) < LINE_MAX:
            return None
        word, _, digits = self.line.rstrip(b"\r\n").partition(b" ")
        if word != b"CONNECT" or not end or not digits.isdigit() or int(digits) >= PORT_ANY:
            raise ValueError(self.line)
        return int(digits)


class Clients:
    """Programs that connected to *listener*, until they name a port.

    :param runtime: whose loop to use, while its device runs
    :param arrived: gets a client's socket and the port it asked for
    :param room: says whether another one may come
    """

    def __init__(
        self,
        runtime: Runtime,
        listener: VsockListener,
        arrived: Callable[[socket.socket, int], object],
        room: Callable[[], bool],
    ) -> None:
        self._runtime = runtime
        self._listener = listener
        self._arrived = arrived
        self._room = room
        self._clients: set[Client] = set()
        self._deadlines = Deadlines(runtime, PATIENCE, self._forget)
        self._accepting = False

    def __len__(self) -> int:
        return len(self._clients)

    def accept_more(self) -> None:
        """There may be room again."""
        if not self._accepting and self._room():
            self._accepting = True
            self._runtime.watch(self._listener.socket.fileno(), READ, self._accept)

    def clear(self) -> None:
        """The device stopped."""
        for client in self._clients:
            client.sock.close()
        self._clients.clear()
        self._deadlines.clear()
        self._accepting = False

    def _accept_no_more(self) -> None:
        self._accepting = False
        self._runtime.unwatch(self._listener.socket.fileno())

    def _accept(self, events: int) -> None:
        try:
            sock, _ = self._listener.socket.accept()
        except BlockingIOError:
            return  # it left again
        except OSError:  # no descriptor or memory left
            self._accept_no_more()
            self._runtime.later(ACCEPT_PAUSE, self.accept_more)
            return
        sock.setblocking(False)
        client = Client(sock)
        self._clients.add(client)
        self._deadlines.add(client)
        self._runtime.watch(sock.fileno(), READ, lambda _: self._speaks(client))
        if not self._room():
            self._accept_no_more()

    def _speaks(self, client: Client) -> None:
        try:
            port = client.read_port()
        except (OSError, EOFError, ValueError):
            self._forget(client)
            return
        if port is not None:
            self._release(client)
            self._arrived(client.sock, port)

    def _release(self, client: Client) -> None:
        self._runtime.unwatch(client.sock.fileno())
        self._clients.remove(client)
        self._deadlines.remove(client)

    def _forget(self, client: Client) -> None:
        self._release(client)
        client.sock.close()
        self.accept_more()
