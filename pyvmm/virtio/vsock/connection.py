"""One stream between a guest's port and a UNIX socket: its credit, its state, its bytes. Section 5.10.6.3-6.

It moves bytes between the socket and views of guest memory, and knows which packet is due next; queues,
ports and the event loop are the device's.
"""

from __future__ import annotations

import select
import socket

from pyvmm.loop import HANGUP, READ, WRITE
from pyvmm.virtio.vsock.packet import (
    MASK32,
    OP_CREDIT_REQUEST,
    OP_CREDIT_UPDATE,
    OP_REQUEST,
    OP_RESPONSE,
    OP_RW,
    OP_SHUTDOWN,
    SHUTDOWN_BOTH,
    SHUTDOWN_RECEIVE,
    SHUTDOWN_SEND,
)

# What Connection.watched says of a socket the loop does not know.
UNWATCHED = -1
#: Receive chains filled by one call, when the socket has that much.
BATCH = 16


class Connection:
    """The stream of one pair of ports.

    :param guest_port: the guest's end
    :param host_port: the host's end
    :param sock: the UNIX socket, connected unless ``connecting``, and not blocking
    :param space: bytes from the guest that are kept for a slow socket: the credit given
    """

    __slots__ = (
        "_asked",
        "_backlog",
        "_due",
        "_fwd_cnt",
        "_peer_buf_alloc",
        "_peer_fwd_cnt",
        "_shut",
        "_shut_told",
        "_told_fwd_cnt",
        "_tx_cnt",
        "batch",
        "connecting",
        "guest_port",
        "guest_shut",
        "host_port",
        "hung_up",
        "input_over",
        "open",
        "queued",
        "readable",
        "sock",
        "space",
        "watched",
    )

    def __init__(self, guest_port: int, host_port: int, sock: socket.socket, space: int) -> None:
        self.guest_port = guest_port
        self.host_port = host_port
        self.sock = sock
        self.space = space
        #: True between the handshake and the end.
        self.open = False
        #: The socket waits for a place in its program's backlog: nothing can be sent or received yet.
        self.connecting = False
        #: Shutdown flags the guest has given: what it will no longer do.
        self.guest_shut = 0
        #: The socket has bytes, or its end, as far as we know.
        self.readable = False
        #: Nothing more is read from the socket: it gave its last byte, or the guest wants no more.
        self.input_over = False
        #: The program at the other end of the socket has closed it.
        self.hung_up = False
        #: In the device's list of those with something to send.
        self.queued = False
        #: Events the loop waits for on the socket.
        self.watched = UNWATCHED
        #: Receive chains to take for the next read.
        self.batch = 1
        self._backlog = bytearray()
        self._due: int | None = None  # the handshake's packet
        self._shut = self._shut_told = 0  # shutdown flags for the guest, and those it knows
        self._asked = False
        self._tx_cnt = self._peer_fwd_cnt = self._peer_buf_alloc = 0
        self._fwd_cnt = self._told_fwd_cnt = 0

    # The handshake

    def request(self) -> None:
        """Ask the guest for the connection."""
        self._due = OP_REQUEST

    def respond(self) -> None:
        """Tell the guest that its request was granted."""
        self._due = OP_RESPONSE
        self.open = True

    def connected(self) -> None:
        """The socket has its place: pass on what came from the guest meanwhile."""
        self.connecting = False
        if self.guest_shut & SHUTDOWN_RECEIVE:
            self._shut_down(socket.SHUT_RD)
        self.flush()

    # Credit (5.10.6.3)

    def credit_told(self, buf_alloc: int, fwd_cnt: int) -> None:
        """The guest says how much room it has and how much it has consumed.

        *buf_alloc*: bytes of its buffer; *fwd_cnt*: bytes taken out of it so far, modulo 2**32.
        """
        self._peer_buf_alloc, self._peer_fwd_cnt = buf_alloc, fwd_cnt
        if self.credit:
            self._asked = False

    @property
    def credit(self) -> int:
        """Bytes the guest has room for; 0 where its numbers contradict each other."""
        return max(0, self._peer_buf_alloc - (self._tx_cnt - self._peer_fwd_cnt & MASK32))

    @property
    def fwd_cnt(self) -> int:
        """Bytes from the guest that the socket took: a field of every packet to the guest."""
        return self._fwd_cnt

    def header_written(self) -> None:
        """A packet with ``fwd_cnt`` was written to the guest."""
        self._told_fwd_cnt = self._fwd_cnt

    @property
    def credit_update_due(self) -> bool:
        """Half of the room that the guest believes used is free again."""
        return (self._fwd_cnt - self._told_fwd_cnt & MASK32) >= self.space >> 1

    def tell_credit(self) -> None:
        """The guest asked for our credit."""
        if self._due is None:
            self._due = OP_CREDIT_UPDATE

    # From the guest to the socket

    @property
    def backlog(self) -> int:
        """Bytes kept that the socket did not take yet."""
        return len(self._backlog)

    def deliver(self, views: list[memoryview], size: int) -> bool:
        """Pass *size* bytes from the guest on; False when it had no credit for them. Raises no OSError."""
        backlog = self._backlog
        if len(backlog) + size > self.space:
            return False
        if self._shut & SHUTDOWN_RECEIVE:
            self._consumed(size)  # was under way when the program at the other end left
            return True
        taken = 0
        if not backlog and not self.connecting:
            try:
                taken = self.sock.sendmsg(views, (), socket.MSG_NOSIGNAL)
            except BlockingIOError:
                pass
            except OSError:
                self.refuse_output()
                taken = size
            self._consumed(taken)
        if taken < size:
            for view in views:
                if taken >= view.nbytes:
                    taken -= view.nbytes
                else:
                    backlog += view[taken:] if taken else view
                    taken = 0
        return True

    def flush(self) -> None:
        """The socket may take more of what is kept."""
        backlog = self._backlog
        while backlog:
            try:
                taken = self.sock.send(backlog, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:
                self.refuse_output()
                return
            del backlog[:taken]
            self._consumed(taken)
        if self.guest_shut & SHUTDOWN_SEND:
            self._shut_down(socket.SHUT_WR)

    def guest_shuts(self, flags: int) -> None:
        """The guest will no longer send, or receive, or both: tell the program at the other end.

        *flags*: SHUTDOWN_SEND, SHUTDOWN_RECEIVE (5.10.6.5).
        """
        self.guest_shut |= flags & SHUTDOWN_BOTH
        if flags & SHUTDOWN_RECEIVE:
            self.input_over = True
            self.readable = False
            self._shut_down(socket.SHUT_RD)
            if self.hung_up:
                self._shut = SHUTDOWN_BOTH
        if flags & SHUTDOWN_SEND and not self._backlog:
            self._shut_down(socket.SHUT_WR)

    def _shut_down(self, how: int) -> None:
        try:
            self.sock.shutdown(how)
        except OSError:
            pass  # the other end is closed already

    def refuse_output(self) -> None:
        """The other end reads no more: drop what is kept, and send the guest a shutdown."""
        self._consumed(len(self._backlog))
        self._backlog.clear()
        self._shut |= SHUTDOWN_RECEIVE

    def _consumed(self, size: int) -> None:
        self._fwd_cnt = self._fwd_cnt + size & MASK32

    # From the socket to the guest

    def fill(self, views: list[memoryview]) -> int:
        """Read from the socket into *views*, at most ``credit`` bytes; 0 when it has nothing more for now.

        Raises ConnectionError when the program at the other end left in the middle.
        """
        try:
            size = self.sock.recvmsg_into(views)[0]
        except BlockingIOError:
            self.readable = False
            return 0
        if not size:
            self.readable = False
            self.input_over = True
            self._shut |= SHUTDOWN_BOTH if self.hung_up else SHUTDOWN_SEND
        self._tx_cnt = self._tx_cnt + size & MASK32
        return size

    def hang_up(self) -> None:
        """The program at the other end has closed its socket; what it sent before may still be there.

        Asks the socket: an event may be of another one that had the same descriptor in this turn of the loop.
        """
        poll = select.poll()
        poll.register(self.sock, 0)
        if not any(events & HANGUP for _, events in poll.poll(0)):
            return
        self.hung_up = True
        self.refuse_output()
        if self.input_over:
            self._shut |= SHUTDOWN_BOTH
        else:
            self.readable = True

    # What is due

    def next_op(self) -> int | None:
        """The operation of the packet to send next; None when there is nothing to say.

        One that is not OP_RW is taken as said.
        """
        due = self._due
        if due is not None:
            self._due = None
            return due
        if not self.open:
            return None
        if self.readable:
            if self.credit:
                return OP_RW
            if not self._asked:
                self._asked = True
                return OP_CREDIT_REQUEST
        if self._shut != self._shut_told:
            self._shut_told = self._shut
            return OP_SHUTDOWN
        return OP_CREDIT_UPDATE if self.credit_update_due else None

    @property
    def has_more(self) -> bool:
        """Whether ``next_op`` would say something."""
        if self._due is not None:
            return True
        if not self.open:
            return False
        if self.readable and (self.credit or not self._asked):
            return True
        return self._shut != self._shut_told or self.credit_update_due

    @property
    def shutdown_flags(self) -> int:
        """What OP_SHUTDOWN says."""
        return self._shut

    @property
    def interest(self) -> int:
        """The events to wait for on the socket, or UNWATCHED."""
        if self.connecting:
            return UNWATCHED  # a socket without a connection reports a hang-up
        events = WRITE if self._backlog else 0
        if self.open and not self.input_over and not self.readable:
            events |= READ
        if not events and self.hung_up:
            return UNWATCHED  # a hang-up is reported over and over
        return events

    @property
    def finished(self) -> bool:
        """The guest neither sends nor receives any more, and the socket has all that it sent."""
        return self.guest_shut == SHUTDOWN_BOTH and not self._backlog and not self.connecting
