"""The host's half of the exec protocol: many commands over one link, without I/O of its own.

``docs/internals/exec-protocol.md`` describes the protocol; ``firmware/guest/init/server.c`` is the guest's
half. Bytes for the guest go to *send*, bytes from it come in by ``receive``; what happens to a command is
told by the functions given with it::

    client = ExecClient(port.send)
    port.receiver = client.receive
    client.connect()
    run = client.start(Request(["cat"]), on_stdout=show, on_exit=ended)
    run.write(b"hello\n")
    run.eof()

Everything happens in one thread, the one that calls ``receive``.
"""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack

from pyvmm.errors import GuestError
from pyvmm.exec import frames
from pyvmm.exec.request import ExecRequestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyvmm.exec.frames import Frame
    from pyvmm.exec.request import Request

#: Commands at a time; a small guest refuses some of them (status EXIT_REFUSED).
RUNS_MAX = 255
#: Bytes of credit that are used at most, whatever the guest grants: what is sent waits in this process.
WINDOW_MAX = 1 << 20
#: A line that says why a command was refused needs no credit; it is no longer than this.
_REFUSAL_MAX = 256

_HELLO = struct.Struct("<HHI")
_WELCOME = struct.Struct("<HHIII")
_EXIT = struct.Struct("<II")
_U32 = struct.Struct("<I")


class ExecProtocolError(GuestError):
    """The guest's end of the link does not speak this protocol, or not this version of it."""


class ExecLostError(GuestError):
    """The link to the guest's exec server ended while a command was running."""


class Run:
    """One command. Made by ``ExecClient.start``.

    The functions get the run and what came. With *on_stdout* or *on_stderr*, call ``consumed`` for the
    bytes once they are passed on; without, that output is dropped. *number*, 1 to 255, is in all of its
    frames.
    """

    def __init__(
        self,
        client: ExecClient,
        number: int,
        request: Request,
        on_stdout: Callable[[Run, bytes], object] | None,
        on_stderr: Callable[[Run, bytes], object] | None,
        on_room: Callable[[Run], object] | None,
        on_exit: Callable[[Run], object] | None,
    ) -> None:
        self.number = number
        self.on_stdout = on_stdout
        self.on_stderr = on_stderr
        #: Called when ``room`` has grown from 0.
        self.on_room = on_room
        #: Called once, at the end: the command's, or the link's.
        self.on_exit = on_exit
        #: The exit status, or 128 + the signal that killed it, 0 to 255; None while it runs and when the
        #: link was lost.
        self.status: int | None = None
        #: The signal that killed it; 0: none did.
        self.signal_number = 0
        #: Why there is no status: the link was lost.
        self.error: ExecLostError | None = None
        #: True once ``on_exit`` is called.
        self.ended = False
        self._client = client
        self._request = request.body  # what of it is still to be sent
        #: Frames that must follow the request: one for each signal, and the latest of each other type.
        self._later: dict[int | bytes, bytes] = {}
        self._credit = 0  # bytes of standard input that the guest takes
        self._allowed = request.window + _REFUSAL_MAX  # bytes of output that it may send
        self._consumed = 0
        self._grant_at = max(1, request.window // 4)

    @property
    def room(self) -> int:
        """Bytes that ``write`` takes now."""
        if self.ended or self._request:
            return 0
        return min(self._credit, self._client._credit)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Send the first bytes of *data*, as many as the guest has room for; returns how many."""
        size = min(len(data), self.room)
        if not size:
            return 0
        self._credit -= size
        self._client._credit -= size
        view = memoryview(data)
        self._client._send(
            frames.encode(frames.HOST_STDIN, self.number, view[at : min(size, at + frames.PAYLOAD_MAX)])
            for at in range(0, size, frames.PAYLOAD_MAX)
        )
        return size

    def eof(self) -> None:
        """Nothing more comes on standard input (with a pty: Ctrl-D is typed)."""
        self._control(frames.HOST_EOF)

    def signal(self, number: int) -> None:
        """Send signal *number*, 1 to 64, to the command's process group."""
        self._control(frames.HOST_SIGNAL, _U32.pack(number))

    def resize(self, rows: int, columns: int) -> None:
        """Tell the command's terminal its size: *rows* and *columns* of characters, 0 to 65535."""
        self._control(frames.HOST_RESIZE, struct.pack("<HH", rows & 0xFFFF, columns & 0xFFFF))

    def consumed(self, size: int) -> None:
        """*size* bytes of output were passed on: the guest may send as many more."""
        self._consumed += size
        if self._consumed >= self._grant_at:
            self._allowed += self._consumed
            self._control(frames.HOST_CREDIT, _U32.pack(self._consumed))
            self._consumed = 0

    def _control(self, type: int, payload: bytes = b"") -> None:
        if self.ended:
            return
        frame = frames.encode(type, self.number, payload)
        if self._request:
            self._later[frame if type == frames.HOST_SIGNAL else type] = frame
        else:
            self._client._send((frame,))

    def _output(self, data: bytes, to: Callable[[Run, bytes], object] | None) -> None:
        self._allowed -= len(data)
        if self._allowed < 0:
            raise ExecProtocolError(
                "the guest's init sent more output of a command than it was allowed to; use this pyvmm's init"
            )
        if to is None:
            self.consumed(len(data))
        else:
            to(self, data)

    def _end(self) -> None:
        self.ended = True
        self._request = b""
        self._later.clear()
        if self.on_exit is not None:
            self.on_exit(self)


class ExecClient:
    """One link to one guest: up to RUNS_MAX commands at a time.

    *send* takes bytes for the guest and must not call back into the client. *on_ready* is called when the
    guest has answered, which it may do several times: a guest that begins anew is greeted anew. Before that
    every run is told (``Run.error``).
    """

    def __init__(
        self, send: Callable[[bytes], object], *, on_ready: Callable[[], object] | None = None
    ) -> None:
        self.on_ready = on_ready
        #: True while the guest answers; commands started before wait for it.
        self.ready = False
        #: Why the link is gone, after ``disconnect``.
        self.lost: ExecLostError | None = None
        self._sink = send
        self._batch: list[bytes] | None = None  # what is to be sent when ``receive`` returns
        self._greeting = False  # a greeting is among it: one is enough for all that asked for it
        self._decoder = frames.Decoder()
        self._nonce = 0
        self._credit = 0  # bytes of PART, RUN and STDIN payload that the link takes
        self._window = 0  # the most that it ever takes
        self._input_window = 0  # bytes of standard input that a command ever takes
        self._runs: dict[int, Run] = {}
        self._starting: list[Run] = []  # those whose request is not sent in full, in order
        self._last = 0
        self._turn = 0
        self._pings: list[tuple[int, Callable[[], object]]] = []
        self._token = 0

    @property
    def running(self) -> int:
        """How many commands have not ended."""
        return len(self._runs)

    def connect(self) -> None:
        """The link can carry bytes: greet the guest. Again when it was interrupted, after ``disconnect``."""
        self.lost = None
        self._decoder = frames.Decoder()
        self._nonce = int.from_bytes(os.urandom(4), "little") | 1
        self._greet()

    def disconnect(self, reason: str) -> None:
        """The link is gone: every run ends with an ExecLostError of the sentence *reason*. Idempotent."""
        self.lost = ExecLostError(reason)
        self._pings.clear()
        self._lose(reason)

    def start(
        self,
        request: Request,
        *,
        on_stdout: Callable[[Run, bytes], object] | None = None,
        on_stderr: Callable[[Run, bytes], object] | None = None,
        on_room: Callable[[Run], object] | None = None,
        on_exit: Callable[[Run], object] | None = None,
    ) -> Run:
        """Start a command, now or as soon as the guest answers.

        Raises ExecRequestError when RUNS_MAX are running, ExecLostError after ``disconnect``.
        """
        if self.lost is not None:
            raise ExecLostError(str(self.lost))
        if len(self._runs) == RUNS_MAX:
            raise ExecRequestError(
                f"{RUNS_MAX} commands are running over this link, which is its limit; wait for one to end"
            )
        number = self._last % RUNS_MAX + 1
        while number in self._runs:
            number = number % RUNS_MAX + 1
        self._last = number
        run = Run(self, number, request, on_stdout, on_stderr, on_room, on_exit)
        self._runs[number] = run
        self._starting.append(run)
        if self.ready:
            run._credit = self._input_window
            self._send(self._requests())
        return run

    def ping(self, on_answer: Callable[[], object]) -> None:
        """Ask whether the guest's exec server answers; *on_answer* is called when it does."""
        self._token = self._token + 1 & 0xFFFFFFFF
        self._pings.append((self._token, on_answer))
        if self.ready:
            self._send((frames.encode(frames.HOST_PING, 0, _U32.pack(self._token)),))

    def power(self, *, reboot: bool = False) -> None:
        """Ask the guest to end its processes and power off, or reboot."""
        self._send((frames.encode(frames.HOST_POWER, 0, _U32.pack(int(reboot))),))

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes from the guest.

        Raises ExecProtocolError when the guest speaks another version or breaks this one's rules; the link
        is of no use then. What the functions given with a run raise comes through.
        """
        if self._batch is not None:  # called by a function that we called
            for frame in self._decoder.feed(data):
                self._handle(frame)
            return
        self._batch, self._greeting = [], False
        try:
            for frame in self._decoder.feed(data):
                self._handle(frame)
        finally:
            batch, self._batch = self._batch, None
            if batch:
                self._sink(b"".join(batch))

    def _send(self, pieces: Iterable[bytes]) -> None:
        if self._batch is not None:
            self._batch += pieces
        elif data := b"".join(pieces):
            self._sink(data)

    def _greet(self) -> None:
        if self._batch is not None:
            if self._greeting:
                return
            self._greeting = True
        self._send((frames.encode(frames.HOST_HELLO, 0, _HELLO.pack(frames.VERSION, 0, self._nonce)),))

    def _handle(self, frame: Frame) -> None:
        type, payload = frame.type, frame.payload
        if type == frames.GUEST_HELLO:
            self._greeted(payload)
            return
        if not self.ready:
            return  # of a link before this one
        if frame.run == 0:
            if len(payload) < 4:
                return
            value = _U32.unpack_from(payload)[0]
            if type == frames.GUEST_CREDIT:
                self._link_credit(value)
            elif type == frames.GUEST_PONG:
                self._answered(value)
            return
        run = self._runs.get(frame.run)
        if run is None or run._request:
            return
        if type == frames.GUEST_STDOUT:
            run._output(payload, run.on_stdout)
        elif type == frames.GUEST_STDERR:
            run._output(payload, run.on_stderr)
        elif type == frames.GUEST_CREDIT and len(payload) >= 4:
            empty = not run.room
            run._credit = min(run._credit + _U32.unpack_from(payload)[0], self._input_window)
            if empty and run.room and run.on_room is not None:
                run.on_room(run)
        elif type == frames.GUEST_EXIT and len(payload) >= 8:
            status, number = _EXIT.unpack_from(payload)
            run.status, run.signal_number = status & 0xFF, number & 0x7F  # as wait(2) has them
            del self._runs[run.number]
            run._end()

    def _greeted(self, payload: bytes) -> None:
        if len(payload) < 12:
            return
        version, _, nonce, window, inputs = _WELCOME.unpack(
            payload[: _WELCOME.size].ljust(_WELCOME.size, b"\0")
        )
        if version != frames.VERSION:
            raise ExecProtocolError(
                f"the guest's init speaks version {version} of the exec protocol, this pyvmm version "
                f"{frames.VERSION}; rebuild the initramfs with this pyvmm"
            )
        if nonce == self._nonce and self.ready:
            return  # the answer to a greeting sent twice
        if self.ready:
            self._lose(
                "the guest's exec server began anew while the command was running, as it does after it "
                "was killed; look for the reason on the guest's console (out of memory?)"
            )
        if nonce != self._nonce:
            self._greet()
            return
        self.ready = True
        self._credit = self._window = min(window, WINDOW_MAX)
        self._input_window = min(inputs, WINDOW_MAX)
        for run in self._starting:
            run._credit = self._input_window
        self._send([frames.encode(frames.HOST_PING, 0, _U32.pack(token)) for token, _ in self._pings])
        if self.on_ready is not None:
            self.on_ready()
        self._link_credit(0)

    def _link_credit(self, more: int) -> None:
        """The link takes *more* bytes: of requests first, then of whoever has something to write, in turn."""
        had = self._credit
        self._credit = min(self._credit + more, self._window)
        starting = list(self._starting)
        self._send(self._requests())
        if had:
            waiting = [run for run in starting if not run._request]
        else:
            waiting = sorted(self._runs.values(), key=lambda run: (run.number < self._turn, run.number))
        for run in waiting:
            if not self._credit:
                self._turn = run.number  # the first one next time
                return
            if run.room and run.on_room is not None:
                run.on_room(run)

    def _requests(self) -> list[bytes]:
        """The frames of requests that the link takes now."""
        pieces = []
        while self._starting and self._credit:
            run = self._starting[0]
            size = min(len(run._request), self._credit, frames.PAYLOAD_MAX)
            part, rest = run._request[:size], run._request[size:]
            self._credit -= size
            pieces.append(frames.encode(frames.HOST_PART if rest else frames.HOST_RUN, run.number, part))
            run._request = rest
            if not rest:
                pieces += run._later.values()
                run._later.clear()
                del self._starting[0]
        return pieces

    def _answered(self, token: int) -> None:
        for ping in self._pings:
            if ping[0] == token:
                self._pings.remove(ping)
                ping[1]()
                return

    def _lose(self, reason: str) -> None:
        self.ready = False
        runs, self._runs = list(self._runs.values()), {}
        self._starting.clear()
        with ExitStack() as told:  # all of them, even when one raises
            for run in reversed(runs):
                run.error = ExecLostError(reason)
                told.callback(run._end)
