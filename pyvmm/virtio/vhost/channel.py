"""The front end's half of a vhost-user connection: requests, their answers, and when to give up.

Source: QEMU docs/interop/vhost-user.rst.
"""

from __future__ import annotations

import socket
import time
from _thread import RLock, allocate_lock, start_new_thread
from contextlib import contextmanager
from struct import pack

from pyvmm.host.peer import stranger
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.vhost import user_protocol as p
from pyvmm.virtio.vhost.device import Ring, VhostControl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from struct import Struct
    from threading import Lock as LockType

    from pyvmm.memory.guest import GuestMemory

#: Seconds a back end may take for all requests of one operation, such as the start of the device; a reset has
#: to wait for requests on their way to a disk.
PATIENCE = 10.0
#: Seconds it may take for what is asked when the machine is over.
LAST_PATIENCE = 1.0
#: The protocol features we use.
PROTOCOL_FEATURES = p.PROTOCOL_F_MQ | p.PROTOCOL_F_REPLY_ACK | p.PROTOCOL_F_BACKEND_REQ | p.PROTOCOL_F_CONFIG
PROTOCOL_FEATURES |= p.PROTOCOL_F_RESET_DEVICE


class Channel(VhostControl):
    """The connection *sock* to a back end called *place* in messages. Any thread, one request at a time.

    :param patience: seconds that it may take for all requests of one operation

    The first failure ends the connection, and every later request fails with the same sentence.
    All methods that make a request raise DeviceError when the back end refuses it, does not answer in time or
    does not speak the protocol; so does the constructor.
    """

    def __init__(self, sock: socket.socket, place: str, patience: float) -> None:
        self.place = place
        self.fd = sock.fileno()
        #: What ended the connection; empty while it lives.
        self.lost = ""
        #: The protocol features both sides have.
        self.protocol = 0
        #: How many queues the back end has; None where it has no GET_QUEUE_NUM.
        self.queue_num: int | None = None
        self._socket = sock
        self._receiver = p.MessageReceiver(sock, descriptors=False)
        self._lock = RLock()
        # When the operation under way must be over, by time.monotonic; None while there is none.
        self._until: float | None = None
        self._memory_told = False
        self._patience = patience
        self._in_use = allocate_lock()  # held until the machine has let go of it; each machine's is another
        self._in_use.acquire()
        try:
            with self.operation():
                self._negotiate()
        except BaseException:
            self.close()
            raise

    def _negotiate(self) -> None:
        self.tell(p.SET_OWNER)
        self.features = self.ask_number(p.GET_FEATURES)
        if self.features & p.F_PROTOCOL_FEATURES:
            self.protocol = self.ask_number(p.GET_PROTOCOL_FEATURES) & PROTOCOL_FEATURES
            self.tell(p.SET_PROTOCOL_FEATURES, p.U64.pack(self.protocol))
            if self.protocol & p.PROTOCOL_F_MQ:
                self.queue_num = self.ask_number(p.GET_QUEUE_NUM)

    def renew(self) -> None:
        """Begin anew for another machine, whose memory is told when its driver starts the device.

        The machine before has stopped its rings. Where the back end knows RESET_DEVICE, it forgets the
        device's state; else it has what stopped rings leave, as after a reset by the driver.
        """
        self._in_use = allocate_lock()
        self._in_use.acquire()
        self._memory_told = False
        with self.operation():
            if self.protocol & p.PROTOCOL_F_RESET_DEVICE:
                self.tell(p.RESET_DEVICE)
            self.features = self.ask_number(p.GET_FEATURES)  # it has got so far

    # Requests

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Requests that belong together: one time limit for all, and no other thread's between them."""
        with self._lock:
            outermost = self._until is None
            if outermost:
                self._until = time.monotonic() + self._patience
            try:
                yield
            finally:
                if outermost:
                    self._until = None

    def tell(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Make *request*, a number of ``user_protocol``, that has no answer of its own.

        It is confirmed where the back end does that (REPLY_ACK).
        """
        confirm = self.protocol & p.PROTOCOL_F_REPLY_ACK and request != p.SET_PROTOCOL_FEATURES
        with self.operation():
            answer = self._exchange(request, payload, fds, p.NEED_REPLY if confirm else 0, bool(confirm))
            if answer is not None:
                (refused,) = self._checked(answer, p.U64)
                if refused:
                    raise self._end(f"it refused {p.NAMES.get(request, request)}")

    def ask_number(self, request: int, payload: bytes = b"") -> int:
        """Make *request*, a number of ``user_protocol``, whose answer is a number of 64 bits."""
        with self.operation():
            (value,) = self._checked(self._exchange(request, payload, (), 0, True), p.U64)
        return int(value)

    def get_config(self, size: int) -> bytes | None:
        """The first *size* bytes of the configuration space; None when the back end has fewer."""
        asked = p.CONFIG.pack(0, size, 0) + bytes(size)
        with self.operation():
            answer = self._exchange(p.GET_CONFIG, asked, (), 0, True)
            assert answer is not None
            data = answer.payload[p.CONFIG.size :]
            if not data:
                return None
            if len(data) != size:
                raise self._end(f"it answered GET_CONFIG for {size} bytes with {len(data)}")
        return data

    def set_config(self, offset: int, data: bytes) -> None:
        """The driver wrote *data* at *offset* of the configuration space."""
        self.tell(p.SET_CONFIG, p.CONFIG.pack(offset, len(data), 0) + data)

    def _exchange(
        self, request: int, payload: bytes, fds: Sequence[int], flags: int, answered: bool
    ) -> p.Message | None:
        """Send, and receive the answer if there is one. Within an operation."""
        if self.lost:
            raise DeviceError(f"{self.place}: {self.lost}; start it, and this machine, again")
        try:
            p.send(self._socket, request, payload, fds, flags, self._until)
            if not answered:
                return None
            answer = self._receiver.receive(self._until)
        except TimeoutError:
            name = p.NAMES.get(request, request)
            raise self._end(f"it did not answer {name} within {self._patience:g} seconds") from None
        except p.ProtocolError as error:
            raise self._end(str(error)) from None
        assert answer is not None, "received to its end"
        if answer.request != request or not answer.flags & p.REPLY:
            raise self._end(f"it answered {p.NAMES.get(request, request)} with {answer.name}")
        return answer

    def _checked(self, answer: p.Message | None, layout: Struct) -> tuple[int, ...]:
        assert answer is not None, "an answer was asked for"
        try:
            return answer.unpack(layout)
        except p.ProtocolError as error:
            raise self._end(str(error)) from None

    def _end(self, why: str) -> DeviceError:
        """Nothing more is said on this connection; the loop hears of it as a hang-up."""
        self.lost = self.lost or why
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was first
        return DeviceError(f"{self.place}: {why}; start it, and this machine, again")

    def end(self, why: str) -> None:
        """The connection is of no use any more. Any thread."""
        self._end(why)

    def end_soon(self) -> None:
        """The machine is over: the connection ends after LAST_PATIENCE, whoever waits for an answer then."""
        try:
            start_new_thread(self._end_later, (self._in_use,))
        except RuntimeError:
            pass  # no thread to be had: it has its usual time

    def _end_later(self, in_use: LockType) -> None:
        if in_use.acquire(timeout=LAST_PATIENCE):
            in_use.release()
        else:
            self._end(f"it did not answer within {LAST_PATIENCE:g} s of the machine's end")

    def settle(self) -> None:
        """The machine has let go of it: it is not ended by ``end_soon`` any more. Idempotent."""
        if self._in_use.locked():
            self._in_use.release()

    # Control

    def begin(self, memory: GuestMemory, features: int) -> None:
        """Features, and the memory map the first time: it does not change."""
        self.tell(p.SET_FEATURES, p.U64.pack(features | self.features & p.F_PROTOCOL_FEATURES))
        if not self._memory_told:
            payload, fds = mem_table(memory, self.place)
            self.tell(p.SET_MEM_TABLE, payload, fds)
            self._memory_told = True

    def start_ring(self, ring: Ring) -> None:
        """Size, place, position and eventfds of a ring."""
        index = ring.index
        self.tell(p.SET_VRING_NUM, p.VRING_STATE.pack(index, ring.size))
        self.tell(p.SET_VRING_BASE, p.VRING_STATE.pack(index, ring.base))
        self.tell(p.SET_VRING_ADDR, p.VRING_ADDR.pack(index, 0, ring.desc, ring.used, ring.avail, 0))
        self.tell(p.SET_VRING_CALL, p.U64.pack(index), (ring.call,))
        if ring.err >= 0:
            self.tell(p.SET_VRING_ERR, p.U64.pack(index), (ring.err,))
        self.tell(p.SET_VRING_KICK, p.U64.pack(index), (ring.kick,))

    def running(self, rings: list[Ring]) -> None:
        """Enable the rings where they begin disabled; then be sure that the back end got so far."""
        if self.features & p.F_PROTOCOL_FEATURES:
            for ring in rings:
                self.tell(p.SET_VRING_ENABLE, p.VRING_STATE.pack(ring.index, 1))
        if not self.protocol & p.PROTOCOL_F_REPLY_ACK:
            self.ask_number(p.GET_FEATURES)

    def stop_ring(self, index: int) -> int:
        """GET_VRING_BASE: once it is answered, the back end no longer serves the ring."""
        if self.features & p.F_PROTOCOL_FEATURES:
            self.tell(p.SET_VRING_ENABLE, p.VRING_STATE.pack(index, 0))
        with self.operation():
            answer = self._exchange(p.GET_VRING_BASE, p.VRING_STATE.pack(index, 0), (), 0, True)
            answered, base = self._checked(answer, p.VRING_STATE)
            if answered != index or base > 0xFFFF:
                raise self._end(f"it answered GET_VRING_BASE of {index} with {answered}, {base}")
        return base

    def close(self) -> None:
        """Close the connection; a request under way fails at once."""
        self._end("this machine is over")
        with self._lock:
            self._socket.close()
        self.settle()


def connect(path: str, uid: int | None = None) -> socket.socket:
    """A connection to the back end that listens at *path*; waits PATIENCE seconds for a place in its backlog.

    It must be of this user, of root, or of the user *uid*. Raises DeviceError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The kernel's own limit (socket(7)): with settimeout, connect would not wait for a place at all.
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, pack("ll", int(PATIENCE), int(PATIENCE % 1 * 1e6))
        )
        sock.connect(path)
    except BlockingIOError:
        sock.close()
        raise DeviceError(
            f"vhost-user socket {path}: the back end accepts no connection within {PATIENCE:g} seconds; "
            "end the machine that uses it, or start another back end"
        ) from None
    except OSError as error:  # a path too long, too
        sock.close()
        raise DeviceError(
            f"vhost-user socket {path}: {error.strerror or error}; start the back end first"
        ) from None
    if why := stranger(sock, uid):
        sock.close()
        raise DeviceError(
            f"vhost-user socket {path}: {why}, and would get all of the guest's memory; use a directory "
            "where only you can make files, or give uid=N for a back end of another user"
        )
    return sock


def mem_table(memory: GuestMemory, place: str) -> tuple[bytes, list[int]]:
    """SET_MEM_TABLE's payload and descriptors for all RAM; neighbours in one file become one region.

    Raises DeviceError for memory that is private or whose size is not sealed, and for more than MAX_REGIONS
    regions.
    """
    table: list[list[int]] = []
    fds: list[int] = []
    for region in memory.regions:
        fd = region.host.fd
        if region.readonly:
            continue  # a ROM; nothing of a queue lies there
        if fd < 0:
            raise DeviceError(
                f"{place}: guest RAM at {region.gpa:#x} is private to this process; use memory of memfd "
                "or hugetlb"
            )
        if not region.host.sealed:
            raise DeviceError(
                f"{place}: guest RAM at {region.gpa:#x} is a file that the back end could truncate, which "
                "would end this process; use memory of memfd or hugetlb"
            )
        last = table[-1] if table else None
        if (
            last is not None
            and fds[-1] == fd
            and last[0] + last[1] == region.gpa
            and last[3] + last[1] == region.offset
        ):
            last[1] += region.size
        else:
            table.append([region.gpa, region.size, region.address, region.offset])
            fds.append(fd)
    if len(table) > p.MAX_REGIONS:
        raise DeviceError(
            f"{place}: guest RAM has {len(table)} regions and vhost-user carries {p.MAX_REGIONS}; "
            "give --memory fewer parts"
        )
    payload = p.MEM_TABLE.pack(len(table), 0) + b"".join(p.MEM_REGION.pack(*row) for row in table)
    return payload, fds


def backend_channel(channel: Channel) -> socket.socket:
    """Give the back end a channel of its own to us; our end of it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.tell(p.SET_BACKEND_REQ_FD, b"", (theirs.fileno(),))
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours
