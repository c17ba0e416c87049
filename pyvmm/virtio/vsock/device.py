"""The socket device: streams between the guest's vsock ports and UNIX sockets of the host. Section 5.10."""

from __future__ import annotations

import os
import socket

from pyvmm.host import broker
from pyvmm.host.notice import notice
from pyvmm.loop import HANGUP, READ, WRITE
from pyvmm.memory.views import cut
from pyvmm.virtio import ids
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.errors import ChainError
from pyvmm.virtio.vsock import persist
from pyvmm.virtio.vsock.clients import Clients
from pyvmm.virtio.vsock.connecting import Connecting
from pyvmm.virtio.vsock.connection import UNWATCHED, Connection
from pyvmm.virtio.vsock.deadlines import Deadlines
from pyvmm.virtio.vsock.event import send_transport_reset
from pyvmm.virtio.vsock.listener import VsockListener
from pyvmm.virtio.vsock.outbox import Outbox
from pyvmm.virtio.vsock.packet import (
    CID_HOST,
    F_STREAM,
    FIRST_HOST_PORT,
    HEADER,
    HEADER_SIZE,
    LAST_HOST_PORT,
    MAX_DATA,
    OP_CREDIT_REQUEST,
    OP_CREDIT_UPDATE,
    OP_REQUEST,
    OP_RESPONSE,
    OP_RST,
    OP_RW,
    OP_SHUTDOWN,
    SHUTDOWN_BOTH,
    TYPE_STREAM,
    describe,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.virtio.ring.chain import Chain
    from pyvmm.virtio.ring.queue import Queue

RX, TX, EVENT = 0, 1, 2

#: Connections at once, clients that have not asked yet included: half of the usual limit of descriptors.
MAX_CONNECTIONS = 512
#: Bytes kept of a connection whose socket is slow: as Linux has it for the first, less for the others.
SPACE = 256 << 10
SMALL_SPACE = 32 << 10
LARGE_CONNECTIONS = 64
#: Seconds a guest gets to answer a request.
PATIENCE = 5.0


class Vsock(VirtioDevice):
    """Guest sockets.

    :param cid: the guest's context identifier, 3 to 2**32 - 2
    :param path: the UNIX socket for connections into the guest; those out of it go to PATH_PORT
    :param listener: the one on *path*, which the device closes unless it is ``kept``; by default it makes one

    Raises DeviceError when *path* cannot be listened on.
    """

    device_id = ids.SOCKET
    name = "vsock"
    features = F_STREAM
    feature_names = {F_STREAM: "STREAM"}
    queue_sizes = (256, 256, 16)
    config_fields = {"guest_cid": "u64"}

    def __init__(self, cid: int, path: str, listener: VsockListener | None = None) -> None:
        super().__init__()
        self.config.guest_cid = self.cid = cid
        self.path = path
        self.paths = () if broker.is_there() else (os.path.dirname(os.path.abspath(path)),)
        #: Connections by (guest's port, host's port).
        self.connections: dict[tuple[int, int], Connection] = {}
        #: Packets and buffers of the driver's that broke a rule.
        self.refused = 0
        self._listener = VsockListener(path) if listener is None else listener
        self._clients = Clients(
            self.runtime,
            self._listener,
            self._host_asks,
            # Each client may end with a reset that waits for a receive buffer.
            lambda: not self._full and not self._outbox.full,
        )
        self._unanswered = Deadlines(self.runtime, PATIENCE, self._not_answered)
        self._connecting = Connecting(self.runtime, self._listener, self._program_has_it, self._program_left)
        self._lingering: set[Connection] = set()  # ended for the guest, with bytes left for the socket
        self._outbox: Outbox
        self._next_port = FIRST_HOST_PORT
        self._reset_event = False  # whether the event TRANSPORT_RESET is due

    # The device's life

    def attached(self) -> None:
        """The receive queue is there."""
        self._outbox = Outbox(
            self.runtime,
            self.runtime.queues[RX],
            self.cid,
            abort=self.abort,
            wait_for=self.wait_for,
            not_full=self._not_full,
            bad_buffer=self._bad_buffer,
        )

    def started(self) -> None:
        """Accept connections."""
        self._clients.accept_more()

    def stopped(self) -> None:
        """Every connection ends."""
        self._clients.clear()
        self._unanswered.clear()
        self._connecting.clear()
        self._outbox.clear()
        for connection in (*self.connections.values(), *self._lingering):
            connection.sock.close()
        self.connections.clear()
        self._lingering.clear()

    def close(self) -> None:
        """Remove the socket unless it is kept."""
        self._listener.close_unless_kept()

    def pending(self, queue: Queue) -> int:
        """Receive buffers that wait here for packets are taken again after a load."""
        return self._outbox.held if queue.index == RX else 0

    def save_state(self) -> dict[str, Any]:
        """What vsock/persist.py lists."""
        return persist.save(self._next_port)

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore it; the driver is told that its connections are gone (5.10.6.7).

        Raises StateError; KeyError or ValueError for a port that is none.
        """
        self.config.guest_cid = self.cid
        self._next_port = persist.load(self.name, state)
        self._reset_event = True

    def describe(self, queue: int, request: bytes) -> str:
        """The packet of a trace."""
        return describe(request) if queue == TX else ""

    # Queues

    def process(self, queue: Queue) -> None:
        """Packets from the guest, or room for packets to it."""
        if queue.index == TX:
            self._take_packets(queue)
            self._outbox.send()
        elif queue.index == RX:
            self._outbox.send()
        elif self._reset_event:
            self._reset_event = not send_transport_reset(self.runtime, queue)

    def _take_packets(self, queue: Queue) -> None:
        outbox, turn = self._outbox, self.runtime.turn(queue)
        queue.disable_notification()
        # While it is full, chains stay in the queue until it calls ``not_full``.
        while not outbox.full and (chain := next(turn, None)) is not None:
            try:
                self._packet(chain)
            except ChainError as error:
                self.refused += 1
                self.runtime.refuse(error)
            queue.push(chain, 0)
        self.runtime.publish(queue)

    # From the guest

    def _packet(self, chain: Chain) -> None:
        """One packet. Raises ChainError for one without a whole header."""
        source, target, guest_port, host_port, size, kind, op, flags, room, taken = HEADER.unpack(
            chain.read(HEADER_SIZE)
        )
        if source != self.cid or target != CID_HOST or kind != TYPE_STREAM:
            self._wrong(f"from CID {source} for CID {target} of type {kind}")
            if op != OP_RST:
                self._outbox.reset(guest_port, host_port, target, kind)
            return
        connection = self.connections.get((guest_port, host_port))
        if connection is None:
            if op == OP_REQUEST:
                self._guest_asks(guest_port, host_port, room, taken)
            elif op != OP_RST:
                self._outbox.reset(guest_port, host_port)
            return
        connection.credit_told(room, taken)
        if op == OP_RW:
            self._guest_sends(connection, chain, size)
        elif op == OP_CREDIT_UPDATE:
            self._outbox.add(connection)
        elif op == OP_CREDIT_REQUEST and connection.open:
            connection.tell_credit()
            self._outbox.add(connection)
        elif op == OP_SHUTDOWN and connection.open:
            connection.guest_shuts(flags)
            self._goes_on(connection)
        elif op == OP_RESPONSE and not connection.open:
            self._guest_answers(connection)
        elif op == OP_RST:
            self._guest_resets(connection)
        elif op == OP_REQUEST and connection.hung_up and connection.input_over:
            self._drop(connection)  # that one was over for both sides
            self._guest_asks(guest_port, host_port, room, taken)
        else:
            self._wrong(f"of operation {op}, for which its connection is not in the state")
            self.abort(connection)

    def _guest_asks(self, guest_port: int, host_port: int, room: int, taken: int) -> None:
        try:
            if self._full:
                raise OSError(f"it has {MAX_CONNECTIONS} connections already")
            sock = self._listener.new_socket()
        except OSError as error:
            self._refuse(guest_port, host_port, error)
            return
        waits = self._connecting.full(host_port)
        if not waits:
            try:
                self._listener.connect(sock, host_port)
            except BlockingIOError:
                waits = True
            except OSError as error:
                sock.close()
                self._refuse(guest_port, host_port, error)
                return
        connection = self._add(guest_port, host_port, sock)
        connection.credit_told(room, taken)
        connection.respond()
        if waits:
            connection.connecting = True
            self._connecting.add(connection)
        self._goes_on(connection)

    def _refuse(self, guest_port: int, host_port: int, error: OSError) -> None:
        notice(
            f"virtio {self.name} connect",
            f"{self.name}: the guest's connection to port {host_port} was refused: "
            f"{self.path}_{host_port}: {error.strerror or error}",
        )
        self._outbox.reset(guest_port, host_port)

    def _program_has_it(self, connection: Connection) -> None:
        """There was room in the program's backlog."""
        connection.connected()
        if connection not in self._lingering:
            self._goes_on(connection)
        elif connection.backlog:
            self.wait_for(connection)
        else:
            self._discard(connection)
        self._outbox.send()

    def _program_left(self, connection: Connection, error: OSError) -> None:
        """The program has closed its socket without having accepted the connection."""
        if connection in self._lingering:
            self._discard(connection)
            return
        self._drop(connection)
        self._refuse(connection.guest_port, connection.host_port, error)
        self._outbox.send()

    def _guest_answers(self, connection: Connection) -> None:
        self._unanswered.remove(connection)
        connection.open = True
        try:
            connection.sock.send(b"OK %d\n" % connection.host_port)
        except OSError:
            pass  # it left: its socket says so, too
        self._goes_on(connection)

    def _guest_sends(self, connection: Connection, chain: Chain, size: int) -> None:
        given = chain.readable_size - HEADER_SIZE
        if not connection.open or size > MAX_DATA or size > given:
            self._wrong(f"with {size} bytes of data, of which it gave {given}")
            self.abort(connection)
        elif size:
            views = chain.rest_readable()
            if connection.deliver(views if size == given else cut(views, size), size):
                self._goes_on(connection)
            else:
                self._wrong(f"with {size} bytes for which it had no credit")
                self.abort(connection)

    def _guest_resets(self, connection: Connection) -> None:
        if connection.guest_shut and (connection.backlog or connection.connecting):
            # It sends no more; what it sent is still for the program at the other end, which is slow.
            self._remove(connection)
            connection.guest_shuts(SHUTDOWN_BOTH)
            self._lingering.add(connection)
            self.wait_for(connection)
        else:
            self._drop(connection)

    def _bad_buffer(self) -> None:
        self.refused += 1
        notice(
            f"virtio {self.name} buffer",
            f"{self.name}: a receive buffer of the driver's has no room for data",
        )

    def _wrong(self, what: str) -> None:
        self.refused += 1
        notice(f"virtio {self.name}", f"{self.name}: a packet of the driver's was refused: one {what}")

    # From the host

    def _host_asks(self, sock: socket.socket, port: int) -> None:
        connection = self._add(port, self._free_port(port), sock)
        connection.request()
        self._unanswered.add(connection)
        self._goes_on(connection)
        self._outbox.send()

    def _not_answered(self, connection: Connection) -> None:
        self.abort(connection)
        self._outbox.send()

    def _ready(self, connection: Connection, events: int) -> None:
        """A socket can be read or written, or its other end has left."""
        if events & WRITE:
            connection.flush()
        if events & HANGUP:
            connection.hang_up()
        elif events & READ:
            connection.readable = True
        if connection in self._lingering:
            if connection.backlog:
                self.wait_for(connection)
            else:
                self._discard(connection)
            return
        if connection.finished or (connection.hung_up and not connection.open):
            self.abort(connection)
        else:
            self._outbox.add(connection)
            self.wait_for(connection)
        self._outbox.send_soon()

    # Connections

    def _not_full(self) -> None:
        """The guest has taken resets: there is room for more of what causes them."""
        self.runtime.kick(TX)
        self._clients.accept_more()

    @property
    def _full(self) -> bool:
        return len(self.connections) + len(self._lingering) + len(self._clients) >= MAX_CONNECTIONS

    def _free_port(self, guest_port: int) -> int:
        while True:
            port = self._next_port
            self._next_port = port + 1 if port < LAST_HOST_PORT else FIRST_HOST_PORT
            if (guest_port, port) not in self.connections:
                return port

    def _add(self, guest_port: int, host_port: int, sock: socket.socket) -> Connection:
        space = SPACE if len(self.connections) < LARGE_CONNECTIONS else SMALL_SPACE
        connection = Connection(guest_port, host_port, sock, space)
        self.connections[guest_port, host_port] = connection
        return connection

    def _goes_on(self, connection: Connection) -> None:
        """Something has happened: send what it gives reason to, wait for what comes next."""
        if connection.finished:
            self.abort(connection)  # an orderly end is confirmed by a reset, too (5.10.6.5)
            return
        self._outbox.add(connection)
        self.wait_for(connection)

    def wait_for(self, connection: Connection) -> None:
        """Wait for the events of its socket that matter now."""
        events = connection.interest
        if events == connection.watched:
            return
        fd = connection.sock.fileno()
        if events == UNWATCHED:
            self.runtime.unwatch(fd)
        elif connection.watched == UNWATCHED:
            self.runtime.watch(fd, events, lambda happened: self._ready(connection, happened))
        else:
            self.runtime.rewatch(fd, events)
        connection.watched = events

    def abort(self, connection: Connection) -> None:
        """End it and tell the guest."""
        self._drop(connection)
        self._outbox.reset(connection.guest_port, connection.host_port)

    def _drop(self, connection: Connection) -> None:
        """End it; the guest knows."""
        self._remove(connection)
        self._discard(connection)

    def _remove(self, connection: Connection) -> None:
        """It is none of the guest's any more."""
        del self.connections[connection.guest_port, connection.host_port]
        self._unanswered.remove(connection)
        self._outbox.remove(connection)
        connection.open = False

    def _discard(self, connection: Connection) -> None:
        self._lingering.discard(connection)
        self._connecting.remove(connection)
        self.runtime.unwatch(connection.sock.fileno())
        connection.watched = UNWATCHED
        connection.sock.close()
        self._clients.accept_more()
