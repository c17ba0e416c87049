"""A command in the guest for another process: the guest's half of the exec protocol, on a control socket.

What the other process sends is checked against the credit it was given: who breaks the protocol's rules
is disconnected, and harms nobody else's commands.
"""

from __future__ import annotations

import struct

from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.exec import frames
from pyvmm.exec.request import EXIT_REFUSED, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.exec.client import ExecClient, Run
    from pyvmm.exec.frames import Frame
    from pyvmm.loop import Loop

#: Bytes of requests and input that may be on their way to us, and those of them that are a command's input.
WINDOW = 128 << 10
INPUT_WINDOW = 64 << 10
#: Bytes of output on their way that a command may ask for at most.
OUTPUT_MAX = 1 << 20
#: Frames without credit (EOF, RESIZE, SIGNAL) that may be on their way to the guest, which is asked after
#: every so many whether it has read them.
CONTROL_MAX = 512
_CONTROL_ASK = 64
#: Seconds a command gets to end by SIGHUP when its user has gone.
GRACE = 0.5

_HUP, _KILL = 1, 9
_U32 = struct.Struct("<I")


class RelayError(ConfigError):
    """The other process does not keep to the exec protocol."""


class ExecRelay:
    """Carries one command at a time between *client* and the process that ``send(data)`` goes to.

    *lost* is called when the guest's link is lost under a command. Loop's thread.
    """

    def __init__(
        self,
        loop: Loop,
        client: ExecClient,
        send: Callable[[bytes], object],
        lost: Callable[[str], object],
    ) -> None:
        self._loop = loop
        self._client = client
        self._send = send
        self._lost = lost
        self._decoder = frames.Decoder()
        self._greeted = False
        self._request = bytearray()
        self._run: Run | None = None
        self._number = 0  # what the other process calls it
        self._input = bytearray()
        self._eof = False
        self._unconsumed = 0
        self._controls = 0  # frames without credit so far
        self._controls_read = 0  # how many of them the guest has read for sure

    def receive(self, data: bytes) -> None:
        """Bytes of the other process. Raises RelayError."""
        for frame in self._decoder.feed(data):
            self._handle(frame)
        if self._decoder.noise:
            raise RelayError("what came over the control socket is no exec protocol")

    def close(self) -> None:
        """The other process has gone: its command gets SIGHUP, and SIGKILL soon after. Idempotent."""
        run, self._run = self._run, None
        self._input = bytearray()
        if run is None or run.ended:
            return
        run.on_stdout = run.on_stderr = run.on_room = run.on_exit = None
        run.consumed(self._unconsumed)
        run.eof()
        run.signal(_HUP)
        self._loop.call_later(GRACE, lambda: run.signal(_KILL))

    def _handle(self, frame: Frame) -> None:
        type, payload = frame.type, frame.payload
        if type == frames.HOST_HELLO and len(payload) >= 8:
            self.close()
            self._request.clear()
            self._greeted = True
            nonce = _U32.unpack_from(payload, 4)[0]
            welcome = struct.pack("<HHIII", frames.VERSION, 0, nonce, WINDOW, INPUT_WINDOW)
            self._reply(frames.GUEST_HELLO, 0, welcome)
        elif not self._greeted:
            raise RelayError("the exec protocol begins with a greeting")
        elif type in (frames.HOST_PART, frames.HOST_RUN):
            self._request += payload
            if len(self._request) > frames.REQUEST_MAX:
                raise RelayError(f"a request is longer than {frames.REQUEST_MAX} bytes")
            self._grant(0, len(payload))
            if type == frames.HOST_RUN:
                self._start(frame.run)
        elif type == frames.HOST_PING and len(payload) >= 4:
            self._reply(frames.GUEST_PONG, 0, payload[:4])
        elif self._run is not None and frame.run == self._number:
            self._command(self._run, type, payload)
        elif type == frames.HOST_STDIN:
            self._grant(0, len(payload))  # for a command that has ended

    def _command(self, run: Run, type: int, payload: bytes) -> None:
        value = _U32.unpack_from(payload)[0] if len(payload) >= 4 else 0
        if type == frames.HOST_STDIN:
            self._input += payload
            if len(self._input) > INPUT_WINDOW:
                raise RelayError("more input came than was asked for")
            self._push(run)
        elif type == frames.HOST_EOF:
            self._count_control()
            self._eof = True
            self._push(run)
        elif type == frames.HOST_CREDIT:
            size = min(value, self._unconsumed)
            self._unconsumed -= size
            run.consumed(size)
        elif type == frames.HOST_RESIZE and len(payload) >= 4:
            self._count_control()
            run.resize(value & 0xFFFF, value >> 16)
        elif type == frames.HOST_SIGNAL and 1 <= value <= 64:
            self._count_control()
            run.signal(value)

    def _count_control(self) -> None:
        if not self._client.ready:
            return  # the run keeps one of each
        self._controls += 1
        count = self._controls
        if count - self._controls_read > CONTROL_MAX:
            raise RelayError(f"the guest has read none of {CONTROL_MAX} signals and sizes; send fewer")

        def read() -> None:
            self._controls_read = count

        if count % _CONTROL_ASK == 0:
            self._client.ping(read)

    def _start(self, number: int) -> None:
        body = bytes(self._request)
        self._request.clear()
        try:
            if self._run is not None:
                raise RelayError("one connection runs one command at a time")
            request = Request.parsed(body, OUTPUT_MAX)
            self._number, self._eof, self._unconsumed = number, False, 0
            self._run = self._client.start(
                request,
                on_stdout=lambda run, data: self._output(frames.GUEST_STDOUT, data),
                on_stderr=lambda run, data: self._output(frames.GUEST_STDERR, data),
                on_room=self._push,
                on_exit=self._ended,
            )
        except PyvmmError as error:
            self._reply(frames.GUEST_STDERR, number, f"pyvmm: {error}\n".encode()[: frames.PAYLOAD_MAX])
            self._reply(frames.GUEST_EXIT, number, struct.pack("<II", EXIT_REFUSED, 0))

    def _push(self, run: Run) -> None:
        while self._input and (size := run.write(self._input[: run.room])):
            del self._input[:size]
            self._grant(0, size)
            self._grant(self._number, size)
        if self._eof and not self._input:
            self._eof = False
            run.eof()

    def _output(self, type: int, data: bytes) -> None:
        self._unconsumed += len(data)
        self._reply(type, self._number, data)

    def _ended(self, run: Run) -> None:
        if self._input:
            self._grant(0, len(self._input))
            self._input = bytearray()
        self._run = None
        if run.error is not None:
            self._lost(str(run.error))
            return
        status = run.status if run.status is not None else EXIT_REFUSED
        self._reply(frames.GUEST_EXIT, self._number, struct.pack("<II", status, run.signal_number))

    def _grant(self, number: int, size: int) -> None:
        if size:
            self._reply(frames.GUEST_CREDIT, number, _U32.pack(size))

    def _reply(self, type: int, number: int, payload: bytes) -> None:
        self._send(frames.encode(type, number, payload))
