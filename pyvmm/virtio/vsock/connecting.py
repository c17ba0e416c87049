"""Connections of the guest's whose program has as many waiting to be accepted as its backlog allows.

A connect(2) that does not block fails with EAGAIN then, and nothing tells when there is room (unix(7)): it is
repeated. The guest has its connection meanwhile, as it would if the backlog were longer.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.virtio.runtime import Runtime
    from pyvmm.virtio.vsock.connection import Connection
    from pyvmm.virtio.vsock.listener import VsockListener

#: Seconds between two attempts, and connections of one attempt: the loop has other work.
INTERVAL = 0.01
BATCH = 32


class Connecting:
    """Connects the sockets of connections to their programs, those of one port in the order they came.

    :param runtime: whose timer to use, while its device runs
    :param connected: told of a connection whose program has it
    :param failed: told of one whose program listens no more, with the error
    """

    def __init__(
        self,
        runtime: Runtime,
        listener: VsockListener,
        connected: Callable[[Connection], object],
        failed: Callable[[Connection, OSError], object],
    ) -> None:
        self._runtime = runtime
        self._listener = listener
        self._connected = connected
        self._failed = failed
        self._waiting: dict[Connection, None] = {}
        self._ticking = False

    def add(self, connection: Connection) -> None:
        """Connect *connection* as soon as there is room."""
        self._waiting[connection] = None
        self._tick_later()

    def remove(self, connection: Connection) -> None:
        """It is over; nothing happens for one that does not wait."""
        self._waiting.pop(connection, None)

    def clear(self) -> None:
        """The device stopped, and its timer with it."""
        self._waiting.clear()
        self._ticking = False

    def full(self, port: int) -> bool:
        """Whether others wait for the program on *port*."""
        return any(connection.host_port == port for connection in self._waiting)

    def _tick_later(self) -> None:
        if not self._ticking:
            self._ticking = True
            self._runtime.later(INTERVAL, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        full, left = set(), BATCH
        for connection in list(self._waiting):
            port = connection.host_port
            if port in full or connection not in self._waiting:
                continue
            left -= 1
            if left < 0:
                break
            try:
                self._listener.connect(connection.sock, port)
            except BlockingIOError:
                full.add(port)
            except OSError as error:
                self.remove(connection)
                self._failed(connection, error)
            else:
                self.remove(connection)
                self._connected(connection)
        if self._waiting:
            self._tick_later()
