"""The host's half of the exec protocol: a state machine fed with bytes that gives bytes.

``docs/internals/exec-protocol.md`` describes the protocol; the guest's half is
``firmware/guest/init/server.c``.
Nothing here does I/O: a serial port of a machine and a socket of the lab use it alike::

    session = ExecSession()
    session.run(Request(["cat", "/proc/version"]))
    link.write(session.outgoing())
    for event, value in session.feed(link.read()):
        ...                              # READY, STDOUT, STDERR, ROOM, EXIT, LOST
    link.write(session.outgoing())       # credits, parts of a long request
"""

from __future__ import annotations

import os
import struct

from pyvmm.errors import ConfigError, GuestError
from pyvmm.exec import frames
from pyvmm.exec.frames import Frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    #: An event's number, and bytes (STDOUT, STDERR), a status (EXIT) or 0.
    Event = tuple[int, bytes | int]

#: The guest answered; a command can start at once.
READY = 1
#: Bytes of the command's standard output (with a pty: of both). Call ``consumed`` for them.
STDOUT = 2
#: Bytes of the command's standard error. Call ``consumed`` for them.
STDERR = 3
#: ``stdin_room`` grew.
ROOM = 4
#: The command ended: its exit status, or 128 + the signal that killed it.
EXIT = 5
#: The guest's server started anew: the command that was running is gone.
LOST = 6

#: Statuses the guest gives when the command itself never ran.
EXIT_REFUSED = 125
EXIT_CANNOT = 126
EXIT_NOT_FOUND = 127

_REQUEST = struct.Struct("<HHHI")
_FLAG_PTY = 1
_U32 = struct.Struct("<I")


class ExecRequestError(ConfigError):
    """A command that the protocol cannot carry."""


class ExecProtocolError(GuestError):
    """The guest's end of the exec channel does not speak this protocol's version."""


class Request:
    """A command to run in the guest.

    *argv* is the program and its arguments; a program without a slash is looked up in PATH.
    *env* is added to the guest's own environment. *cwd* is entered after *root*, a directory
    of the guest that becomes the command's root. *pty* is the terminal's size as (rows,
    columns), or None for three pipes. *window* is how many bytes of output may be on their
    way before ``consumed`` is called. Raises ExecRequestError when it cannot be carried.
    """

    __slots__ = ("body", "pty", "window")

    def __init__(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | bytes | None = None,
        root: str | bytes | None = None,
        pty: tuple[int, int] | None = None,
        window: int = 65536,
    ) -> None:
        records = [(b"a", os.fsencode(argument)) for argument in argv]
        records += [(b"e", os.fsencode(f"{name}={value}")) for name, value in (env or {}).items()]
        if cwd is not None:
            records.append((b"d", os.fsencode(cwd)))
        if root is not None:
            records.append((b"r", os.fsencode(root)))
        if not argv:
            raise ExecRequestError("the command for the guest is empty; name a program to run")
        if any(b"\0" in text for _, text in records):
            raise ExecRequestError("the command for the guest has a NUL byte in it; remove it")
        rows, columns = pty or (0, 0)
        head = _REQUEST.pack(_FLAG_PTY if pty else 0, rows & 0xFFFF, columns & 0xFFFF, window)
        self.body = head + b"".join(tag + text + b"\0" for tag, text in records)
        self.pty = pty is not None
        self.window = window
        if len(self.body) > frames.REQUEST_MAX:
            raise ExecRequestError(
                f"the command for the guest takes {len(self.body)} bytes with its environment, "
                f"above the limit of {frames.REQUEST_MAX}; put it into a file of the initramfs"
            )

    @classmethod
    def shell(cls, command: str, *, pty: tuple[int, int] | None = None, window: int = 65536) -> Request:
        """The request that gives *command* to the guest's ``/bin/sh -c``."""
        return cls(["/bin/sh", "-c", command], pty=pty, window=window)


class ExecSession:
    """One link to one guest server: commands run over it one after the other."""

    def __init__(self) -> None:
        self._decoder = frames.Decoder()
        self._out: list[bytes] = []
        self._nonce = int.from_bytes(os.urandom(4), "little") | 1
        self._request = b""  # what of the running command's request is still to be sent
        self._later: list[bytes] = []  # frames for the command that must follow its request
        self._credit = 0
        self._run = 0
        self._owed = 0
        self._grant_at = 0
        #: True once the guest answered.
        self.ready = False
        #: True from ``run`` to the EXIT or LOST event.
        self.running = False
        self._hello()

    @property
    def stdin_room(self) -> int:
        """Bytes that ``send_stdin`` takes now."""
        return self._credit if self.running and self.ready and not self._request else 0

    def outgoing(self) -> bytes:
        """The bytes to be sent to the guest now; each byte is given once."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def run(self, request: Request) -> None:
        """Start a command, now or as soon as the guest answers. Only one runs at a time."""
        if self.running:
            raise ExecRequestError("a command is still running on this channel; wait for its end")
        self._run = self._run % 255 + 1
        self._request = request.body
        self._later.clear()
        self._owed = 0
        self._grant_at = max(1, request.window // 4)
        self.running = True
        self._send_request()

    def send_stdin(self, data: bytes | memoryview) -> int:
        """Send the first bytes of *data*, as many as the guest has room for; returns how many."""
        size = min(len(data), self.stdin_room)
        for at in range(0, size, frames.PAYLOAD_MAX):
            self._send(frames.HOST_STDIN, bytes(data[at : min(size, at + frames.PAYLOAD_MAX)]))
        self._credit -= size
        return size

    def eof(self) -> None:
        """Nothing more comes on standard input (with a pty: Ctrl-D is typed)."""
        self._send(frames.HOST_EOF)

    def signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        self._send(frames.HOST_SIGNAL, _U32.pack(number))

    def resize(self, rows: int, columns: int) -> None:
        """Tell the command's terminal its size."""
        self._send(frames.HOST_RESIZE, struct.pack("<HH", rows & 0xFFFF, columns & 0xFFFF))

    def consumed(self, size: int) -> None:
        """*size* bytes of output were passed on: the guest may send as many more."""
        self._owed += size
        if self._owed >= self._grant_at and self.running:
            self._send(frames.HOST_CREDIT, _U32.pack(self._owed))
            self._owed = 0

    def power(self, *, reboot: bool = False) -> None:
        """Ask the guest to end its processes and power off, or reboot."""
        self._out.append(frames.encode(frames.HOST_POWER, 0, _U32.pack(int(reboot))))

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """What the bytes from the guest mean. Raises ExecProtocolError for a foreign version."""
        events: list[Event] = []
        for frame in self._decoder.feed(data):
            self._handle(frame, events)
        return events

    def _handle(self, frame: Frame, events: list[Event]) -> None:
        type = frame.type
        if type == frames.GUEST_HELLO:
            self._greeted(frame.payload, events)
        elif not self.ready:
            return  # of a link before this one
        elif type == frames.GUEST_CREDIT and len(frame.payload) >= 4:
            self._credit += _U32.unpack_from(frame.payload)[0]
            self._send_request()
            if self.stdin_room:
                events.append((ROOM, 0))
        elif not self.running or frame.run != self._run:
            return
        elif type == frames.GUEST_STDOUT:
            events.append((STDOUT, frame.payload))
        elif type == frames.GUEST_STDERR:
            events.append((STDERR, frame.payload))
        elif type == frames.GUEST_EXIT and len(frame.payload) >= 4:
            self.running = False
            self._request = b""
            events.append((EXIT, _U32.unpack_from(frame.payload)[0]))

    def _greeted(self, payload: bytes, events: list[Event]) -> None:
        if len(payload) < 12:
            return
        version, _, nonce, window = struct.unpack_from("<HHII", payload)
        if version != frames.VERSION:
            raise ExecProtocolError(
                f"the guest's init speaks version {version} of the exec protocol, this pyvmm version "
                f"{frames.VERSION}; rebuild the initramfs with this pyvmm"
            )
        if self.ready and nonce == self._nonce:
            return  # the answer to a greeting sent twice
        if self.ready:
            self.ready = False
            if self.running:
                self.running = False
                self._request = b""
                events.append((LOST, 0))
        if nonce != self._nonce:
            self._hello()
            return
        self.ready = True
        self._credit = window
        events.append((READY, 0))
        self._send_request()
        if self.stdin_room:
            events.append((ROOM, 0))

    def _hello(self) -> None:
        payload = struct.pack("<HHI", frames.VERSION, 0, self._nonce)
        self._out.append(frames.encode(frames.HOST_HELLO, 0, payload))

    def _send(self, type: int, payload: bytes = b"") -> None:
        if self.running:
            started = self.ready and not self._request
            (self._out if started else self._later).append(frames.encode(type, self._run, payload))

    def _send_request(self) -> None:
        while self.ready and self._request and self._credit:
            part = self._request[: min(self._credit, frames.PAYLOAD_MAX)]
            self._request = self._request[len(part) :]
            self._credit -= len(part)
            type = frames.HOST_PART if self._request else frames.HOST_RUN
            self._out.append(frames.encode(type, self._run, part))
            if not self._request:
                self._out += self._later
                self._later.clear()
