"""The exec channel of a machine whose guest is hostile: its commands end, and nothing is raised elsewhere."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from pyvmm.exec import frames
from pyvmm.exec.channel import ExecChannelError
from pyvmm.exec.client import ExecClient, ExecLostError, Run
from pyvmm.exec.request import Request
from pyvmm.guest.exec_devices import ExecDevices
from pyvmm.guest.port import ExecPort
from pyvmm.guest.relay import CONTROL_MAX, ExecRelay, RelayError
from pyvmm.loop import Loop

MEGABYTE = 1 << 20


class Deaf:
    """A guest that reads its greeting and nothing after it, and says what it is told to."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        #: How often the port told of a change.
        self.changes = 0
        devices = self.devices = ExecDevices()
        self.port = ExecPort(devices.link, self._changed)
        self.greeting = b""
        self.devices.serial.attach(loop, self._receive, lambda: 0 if self.greeting else 65536)
        self.devices.device.ports[0].backend.attach(loop, lambda data: False, lambda: 0)
        self.port.client.connect()
        self.says(frames.GUEST_HELLO, 0, struct.pack("<HH4sII", 2, 0, self.greeting, MEGABYTE, MEGABYTE))

    def _changed(self) -> None:
        self.changes += 1

    def _receive(self, data: bytes) -> None:
        self.greeting = frames.Decoder().feed(data)[0].payload[4:8]

    def says(self, type: int, run: int, payload: bytes) -> None:
        self.devices.serial.write(frames.encode(type, run, payload))
        self.loop.run_once()

    def grants(self) -> None:
        for run in (0, 1):
            self.says(frames.GUEST_CREDIT, run, struct.pack("<I", MEGABYTE))


@pytest.mark.parametrize(
    "use",
    [
        lambda run: run.write(bytes(MEGABYTE)),
        lambda run: [run.resize(1, 1) for _ in range(100_000)],
        lambda run: [run.signal(1) for _ in range(100_000)],
    ],
)
def test_guest_that_reads_nothing_loses_its_commands_and_no_caller_gets_it(
    use: Callable[[Run], object],
) -> None:
    with Loop() as loop:
        guest = Deaf(loop)
        assert guest.port.ready
        run = guest.port.client.start(Request(["cat"]))
        for _ in range(8):
            loop.call_soon(lambda: use(run))  # as a command's input comes
            guest.grants()
        loop.run_once(0)

        assert isinstance(guest.port.error, ExecChannelError)
        assert isinstance(run.error, ExecLostError)
        assert guest.changes == 2
        guest.port.client.power()  # of no effect, and no exception
        guest.says(frames.GUEST_HELLO, 0, struct.pack("<HHIII", 2, 0, 0, 1, 1))
        assert guest.changes == 2


def test_relay_when_sending_fails_can_be_closed() -> None:
    failing = False

    def send(data: bytes) -> None:
        nonlocal failing
        if failing:
            failing = False
            raise ExecChannelError("unread")
        sent.append(data)

    sent: list[bytes] = []
    with Loop() as loop:
        client = ExecClient(send)
        client.connect()
        nonce = sent[0][12:16]
        client.receive(
            frames.encode(frames.GUEST_HELLO, 0, struct.pack("<HH4sII", 2, 0, nonce, 99999, 99999))
        )
        relay = ExecRelay(loop, client, lambda data: None, lambda reason: None)
        relay.receive(frames.encode(frames.HOST_HELLO, 0, struct.pack("<HHI", 2, 0, 1)))
        relay.receive(frames.encode(frames.HOST_RUN, 1, Request(["cat"]).body))
        failing = True
        try:
            relay.receive(frames.encode(frames.HOST_STDIN, 1, b"input"))
        except ExecChannelError:
            relay.close()
        assert not failing


@pytest.mark.parametrize(
    "frame",
    [
        frames.encode(frames.HOST_RESIZE, 1, bytes(4)),
        frames.encode(frames.HOST_SIGNAL, 1, b"\1\0\0\0"),
        frames.encode(frames.HOST_EOF, 1),
    ],
)
def test_relay_takes_only_so_many_frames_without_credit_that_the_guest_has_not_read(frame: bytes) -> None:
    sent: list[bytes] = []
    with Loop() as loop:
        client = ExecClient(sent.append)
        client.connect()
        welcome = struct.pack("<HH4sII", 2, 0, sent[0][12:16], 99999, 99999)
        client.receive(frames.encode(frames.GUEST_HELLO, 0, welcome))
        relay = ExecRelay(loop, client, lambda data: None, lambda reason: None)
        relay.receive(frames.encode(frames.HOST_HELLO, 0, struct.pack("<HHI", 2, 0, 1)))
        relay.receive(frames.encode(frames.HOST_RUN, 1, Request(["cat"]).body))
        for _ in range(10 * CONTROL_MAX):  # a guest that reads
            relay.receive(frame)
            for got in frames.Decoder().feed(b"".join(sent)):
                if got.type == frames.HOST_PING:
                    client.receive(frames.encode(frames.GUEST_PONG, 0, got.payload))
            sent.clear()
        with pytest.raises(RelayError, match="read none of"):
            relay.receive(frame * (2 * CONTROL_MAX))
