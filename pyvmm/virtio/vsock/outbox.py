"""Packets of the socket device for the guest, and the receive buffers they go into.

Whatever has something to send is in one list, in the order in which that became so; a connection is in it
once and sends one packet, or one read of its socket, a turn. So a connection with much to send delays no
other.
"""

from __future__ import annotations

from collections import deque
from time import monotonic

from pyvmm.loop import TURN
from pyvmm.memory.views import cut, rest
from pyvmm.virtio.vsock.connection import BATCH, Connection
from pyvmm.virtio.vsock.packet import (
    CID_HOST,
    HEADER,
    HEADER_SIZE,
    MAX_DATA,
    OP_RST,
    OP_RW,
    OP_SHUTDOWN,
    TYPE_STREAM,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.virtio.ring.chain import Chain
    from pyvmm.virtio.ring.queue import Queue
    from pyvmm.virtio.runtime import Runtime

#: Resets that wait for receive buffers; with so many, nothing more is taken from the guest.
MAX_RESETS = 256


class Outbox:
    """Packets for the guest with context identifier *cid*, sent through *queue* of *runtime*'s device.

    :param abort: ends a connection whose socket failed
    :param wait_for: has the events awaited that a connection needs now
    :param not_full: called when ``full`` was true and is no longer
    :param bad_buffer: called when a receive buffer has no room for data
    """

    def __init__(
        self,
        runtime: Runtime,
        queue: Queue,
        cid: int,
        *,
        abort: Callable[[Connection], object],
        wait_for: Callable[[Connection], object],
        not_full: Callable[[], object],
        bad_buffer: Callable[[], object],
    ) -> None:
        self._runtime = runtime
        self._queue = queue
        self._cid = cid
        self._abort = abort
        self._wait_for = wait_for
        self._not_full = not_full
        self._bad_buffer = bad_buffer
        # A reset is (guest's port, host's CID and port, type).
        self._due: deque[Connection | tuple[int, int, int, int]] = deque()
        self._resets = 0
        self._buffers: deque[Chain] = deque()  # taken and not used yet
        self._scheduled = False

    @property
    def full(self) -> bool:
        """Whether resets wait for buffers, and no more of them should be caused."""
        return self._resets >= MAX_RESETS

    @property
    def held(self) -> int:
        """Receive buffers taken from the queue and not used yet."""
        return len(self._buffers)

    def clear(self) -> None:
        """The device stopped."""
        self._due.clear()
        self._buffers.clear()
        self._resets = 0
        self._scheduled = False

    def reset(self, guest_port: int, host_port: int, cid: int = CID_HOST, kind: int = TYPE_STREAM) -> None:
        """Tell the guest that there is no connection between *guest_port* and *host_port*, 32 bits each.

        *cid*: the context identifier that its packet was for; *kind*: the type that the packet had.
        """
        self._resets += 1
        self._due.append((guest_port, cid, host_port, kind))

    def add(self, connection: Connection) -> None:
        """Send what *connection* has to send, if anything."""
        if not connection.queued and connection.has_more:
            connection.queued = True
            self._due.append(connection)

    def remove(self, connection: Connection) -> None:
        """*connection* sends nothing more."""
        if connection.queued:
            self._due.remove(connection)
            connection.queued = False

    def send_soon(self) -> None:
        """``send`` when this turn of the loop has dealt with every socket that is ready."""
        if not self._scheduled:
            self._scheduled = True
            self._runtime.soon(self.send)

    def send(self) -> None:
        """Send what is due, as far as one turn and the buffers allow, and tell the driver."""
        due, queue, runtime = self._due, self._queue, self._runtime
        left, was_full = queue.size, self.full
        end = monotonic() + TURN
        self._scheduled = False
        queue.disable_notification()
        while due and left > 0:
            chain = self._buffer()
            if chain is None:
                if queue.enable_notification():
                    continue
                break
            left -= 1
            item = due.popleft()
            if isinstance(item, tuple):
                guest_port, cid, host_port, kind = item
                self._resets -= 1
                header = HEADER.pack(cid, self._cid, host_port, guest_port, 0, kind, OP_RST, 0, 0, 0)
                chain.write(header)
                queue.push(chain, HEADER_SIZE)
                continue
            item.queued = False
            op = item.next_op()
            if op == OP_RW:
                left -= self._send_data(item, chain)
                if monotonic() > end:
                    left = 0
            elif op is None:
                self._buffers.appendleft(chain)
            else:
                chain.write(self._header(item, op, 0, item.shutdown_flags if op == OP_SHUTDOWN else 0))
                queue.push(chain, HEADER_SIZE)
            self.add(item)
        runtime.publish(queue)
        if due and left <= 0:
            runtime.kick(queue.index)
        if was_full and not self.full:
            self._not_full()

    def _send_data(self, connection: Connection, first: Chain) -> int:
        """One read from the socket straight into receive buffers; returns how many besides *first*."""
        chains: list[Chain] = []
        views: list[memoryview] = []
        rooms: list[int] = []
        credit, batch = connection.credit, connection.batch
        chain: Chain | None = first
        while chain is not None:
            whole = chain.writable_size - HEADER_SIZE
            room = min(whole, MAX_DATA, credit)
            space = rest(chain.writable, HEADER_SIZE)
            views += space if room == whole else cut(space, room)
            chains.append(chain)
            rooms.append(room)
            credit -= room
            chain = self._buffer() if credit and len(chains) < batch else None
        used = 0
        try:
            size = connection.fill(views)
        except OSError:  # the program at the other end left in the middle
            self._buffers.extendleft(reversed(chains))
            self._abort(connection)
            return 0
        for chain, room in zip(chains, rooms, strict=True):
            if not size:
                break
            part = min(room, size)
            chain.write(self._header(connection, OP_RW, part, 0))
            self._queue.push(chain, HEADER_SIZE + part)
            size -= part
            used += 1
        self._buffers.extendleft(reversed(chains[used:]))
        connection.batch = min(2 * used, BATCH) if used == len(chains) else max(1, used)
        if not connection.readable:
            self._wait_for(connection)
        return used - 1

    def _buffer(self) -> Chain | None:
        """A receive buffer with room for a header and more; None when there is none."""
        if self._buffers:
            return self._buffers.popleft()
        return self._queue.pop_with_room(HEADER_SIZE + 1, self._bad_buffer)

    def _header(self, connection: Connection, op: int, size: int, flags: int) -> bytes:
        connection.header_written()
        return HEADER.pack(
            CID_HOST,
            self._cid,
            connection.host_port,
            connection.guest_port,
            size,
            TYPE_STREAM,
            op,
            flags,
            connection.space,
            connection.fwd_cnt,
        )
