"""The messages of vhost-user, both ways. Source: QEMU docs/interop/vhost-user.rst.

A message is a header, a payload of fixed layout, and file descriptors beside it (SCM_RIGHTS).
Names are the specification's without ``VHOST_USER_``.
"""

from __future__ import annotations

import array
import os
import socket
import time
from struct import Struct
from struct import error as StructError

from pyvmm.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# Requests of the front end
GET_FEATURES = 1
SET_FEATURES = 2
SET_OWNER = 3
RESET_OWNER = 4
SET_MEM_TABLE = 5
SET_VRING_NUM = 8
SET_VRING_ADDR = 9
SET_VRING_BASE = 10
GET_VRING_BASE = 11
SET_VRING_KICK = 12
SET_VRING_CALL = 13
SET_VRING_ERR = 14
GET_PROTOCOL_FEATURES = 15
SET_PROTOCOL_FEATURES = 16
GET_QUEUE_NUM = 17
SET_VRING_ENABLE = 18
SET_BACKEND_REQ_FD = 21
GET_CONFIG = 24
SET_CONFIG = 25
RESET_DEVICE = 34
SET_STATUS = 39
GET_STATUS = 40

# Requests of the back end, on the channel that SET_BACKEND_REQ_FD gave it
BACKEND_CONFIG_CHANGE_MSG = 2

# Header flags
VERSION = 1
VERSION_MASK = 3
REPLY = 4
NEED_REPLY = 8

#: The feature bit by which a back end says that it has protocol features.
F_PROTOCOL_FEATURES = 1 << 30

# Protocol features: masks
PROTOCOL_F_MQ = 1 << 0
PROTOCOL_F_REPLY_ACK = 1 << 3
PROTOCOL_F_BACKEND_REQ = 1 << 5
PROTOCOL_F_CONFIG = 1 << 9
PROTOCOL_F_RESET_DEVICE = 1 << 13
PROTOCOL_F_STATUS = 1 << 16

#: In the payload of SET_VRING_KICK, CALL and ERR: the ring, and that no descriptor comes with it.
RING_MASK = 0xFF
NO_FD = 1 << 8

#: Memory regions a table may have, and so descriptors beside one message.
MAX_REGIONS = 8
#: Bytes of configuration space a message may carry.
MAX_CONFIG = 256
#: Bytes of the longest payload we know, rounded up generously; a longer one is refused unread.
MAX_PAYLOAD = 4096

HEADER = Struct("<III")  # request, flags, size of the payload
U64 = Struct("<Q")
VRING_STATE = Struct("<II")  # index, number
VRING_ADDR = Struct("<IIQQQQ")  # index, flags, descriptors, used, available, log
MEM_TABLE = Struct("<II")  # regions, padding
MEM_REGION = Struct("<QQQQ")  # guest address, size, user address, offset in the file
CONFIG = Struct("<III")  # offset, size, flags; the bytes follow

NAMES = {
    value: name
    for name, value in vars().copy().items()
    if name.startswith(("GET_", "SET_", "RESET_")) and isinstance(value, int)
}


class ProtocolError(StartError):
    """The other side broke a rule of vhost-user, or went away."""


class Message:
    """One message as it came; whoever takes it closes ``fds``.

    :param request: its number, such as GET_FEATURES
    :param flags: its header's: VERSION, and REPLY or NEED_REPLY
    """

    __slots__ = ("fds", "flags", "payload", "request")

    def __init__(self, request: int, flags: int, payload: bytes, fds: list[int]) -> None:
        self.request = request
        self.flags = flags
        self.payload = payload
        self.fds = fds

    @property
    def name(self) -> str:
        """The request's name, or its number."""
        return NAMES.get(self.request, f"request {self.request}")

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        """The payload's numbers. Raises ProtocolError unless it has exactly their size."""
        try:
            return layout.unpack(self.payload)
        except StructError:
            raise ProtocolError(
                f"{self.name} came with {len(self.payload)} bytes where the protocol has {layout.size}"
            ) from None

    def fd(self) -> int:
        """The one descriptor that came along, now the caller's. Raises ProtocolError for none or several."""
        if len(self.fds) != 1:
            raise ProtocolError(f"{self.name} came with {len(self.fds)} file descriptors where it has one")
        return self.fds.pop()

    def close(self) -> None:
        """Close the descriptors that were not taken out of the message."""
        while self.fds:
            close(self.fds.pop())


class MessageReceiver:
    """Puts messages together from a stream socket, which may give them in pieces.

    :param descriptors: whether messages may bring any; else the kernel drops them, which unlike close(2)
        calls nothing of their file systems
    """

    def __init__(self, sock: socket.socket, descriptors: bool = True) -> None:
        self._socket = sock
        self._descriptors = descriptors
        self._data = b""
        self._fds: list[int] = []

    def receive(self, until: float | None = None) -> Message | None:
        """The next message; without *until*, None when not all of it is there yet.

        *until* is a time of ``time.monotonic``: all of the message must be there by then. Raises TimeoutError
        when it is not, ProtocolError for what is no message, and for the end of the stream.
        """
        while True:
            wanted = HEADER.size - len(self._data)
            if wanted <= 0:
                request, bits, size = HEADER.unpack(self._data[: HEADER.size])
                if bits & VERSION_MASK != VERSION or size > MAX_PAYLOAD:
                    raise ProtocolError(
                        f"a message with flags {bits:#x} and {size} bytes is none of vhost-user version 1"
                    )
                wanted += size
                if not wanted:
                    message = Message(request, bits, self._data[HEADER.size :], self._fds)
                    self._data, self._fds = b"", []
                    return message
            try:
                data = self._part(wanted, until)
            except BlockingIOError:
                return None
            except TimeoutError:
                raise
            except OSError as error:
                raise ProtocolError(f"the connection failed: {error.strerror}") from None
            if not data:
                where = " in the middle of a message" if self._data else ""
                raise ProtocolError(f"the other process closed the connection{where}")
            self._data += data

    def close(self) -> None:
        """Close the descriptors of a message that never became whole."""
        while self._fds:
            close(self._fds.pop())

    def _part(self, wanted: int, until: float | None) -> bytes:
        flags = 0
        if until is None:
            flags = socket.MSG_DONTWAIT
        else:
            seconds = until - time.monotonic()
            if seconds <= 0:
                raise TimeoutError
            self._socket.settimeout(seconds)
        if not self._descriptors:
            return self._socket.recv(wanted, flags)
        room = socket.CMSG_SPACE(MAX_REGIONS * 4)
        data, ancillary, got, _ = self._socket.recvmsg(wanted, room, flags | socket.MSG_CMSG_CLOEXEC)
        for level, kind, found in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(found[: len(found) - len(found) % fds.itemsize])
                self._fds += fds
        if got & socket.MSG_CTRUNC or len(self._fds) > MAX_REGIONS:
            raise ProtocolError(f"more than {MAX_REGIONS} file descriptors came with one message")
        return data


def close(fd: int) -> None:
    """Close a descriptor of the other side's, of whatever file it is."""
    try:
        os.close(fd)
    except OSError:
        pass  # what that file's system made of close(2); the descriptor is closed


def send(
    sock: socket.socket,
    request: int,
    payload: bytes = b"",
    fds: Sequence[int] = (),
    flags: int = 0,
    until: float | None = None,
) -> None:
    """Send one message: *request*, a number such as GET_FEATURES; *flags*: 0, REPLY or NEED_REPLY.

    *until* is a time of ``time.monotonic``: the other side must have taken it by then; without, at once. The
    file flag O_NONBLOCK, which another holder of the socket can clear, plays no part then. Raises
    ProtocolError when the other side is gone or does not take it.
    """
    data = HEADER.pack(request, VERSION | flags, len(payload)) + payload
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        if until is None:
            sent = sock.sendmsg([data], rights, socket.MSG_DONTWAIT)
            if sent < len(data):
                raise ProtocolError("it takes no messages: its socket is full")
            return
        sock.settimeout(max(0.0, until - time.monotonic()))
        sent = sock.sendmsg([data], rights)
        while sent < len(data):
            sock.settimeout(max(0.0, until - time.monotonic()))
            sent += sock.send(data[sent:])
    except OSError as error:  # a timeout, too
        raise ProtocolError(f"it takes no messages: {error.strerror or error}") from None
