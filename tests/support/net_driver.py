"""A network driver for the fake driver: queues by their names, frames, commands."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyvmm.backends.net.base import NetBackend
from pyvmm.testing import DriverQueue, DriverRequest, FakeDriver
from pyvmm.virtio.net.device import Net

HEADER = 12
BROADCAST = b"\xff" * 6
OTHER = bytes.fromhex("525400000009")
_BODY = bytes(range(251))


class Wire(NetBackend):
    """A backend whose other end the test holds: a socket pair for each queue pair."""

    offloads = 15
    sends_in_any_thread = True

    def __init__(self, pairs: int = 1) -> None:
        super().__init__()
        self.pairs = pairs
        self.told: list[int] = []
        self._ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(pairs)]
        for end in [end for both in self._ends for end in both]:
            end.setblocking(False)

    def started(self, offloads: int) -> None:
        self.told.append(offloads)

    def fd(self, pair: int) -> int:
        return self._ends[pair][0].fileno()

    def receive(self, pair: int, views: list[memoryview]) -> int:
        return os.readv(self._ends[pair][0].fileno(), views)

    def send(self, pair: int, views: list[memoryview]) -> None:
        os.writev(self._ends[pair][0].fileno(), views)

    def close(self) -> None:
        while self._ends:
            for end in self._ends.pop():
                end.close()

    # The other end

    def arrive(self, *frames: bytes, pair: int = 0) -> None:
        """Send *frames*, without headers, to the device."""
        for frame in frames:
            self._ends[pair][1].send(bytes(HEADER) + frame)

    def sent(self, pair: int = 0) -> list[bytes]:
        """What was sent since the last call, with headers."""
        found = []
        try:
            while True:
                found.append(self._ends[pair][1].recv(1 << 20))
        except BlockingIOError:
            return found


class NetDriver(FakeDriver):
    """Drives a Net device."""

    device: Net

    @property
    def rx(self) -> DriverQueue:
        return self.queues[0]

    @property
    def tx(self) -> DriverQueue:
        return self.queues[1]

    def give(self, *sizes: int) -> list[DriverRequest]:
        """Buffers to receive into, a chain each."""
        requests = [self.rx.add([], [size]) for size in sizes]
        self.rx.kick()
        self.run()
        return requests

    def received(self) -> list[bytes]:
        """The frames received, without headers, joined over as many buffers as num_buffers says."""
        frames, rest = [], 0
        self.run()
        for request in self.rx.collect():
            data = self.rx.data(request)
            if not rest:
                rest = int.from_bytes(data[10:12], "little")
                frames.append(b"")
                data = data[HEADER:]
            frames[-1] += data
            rest -= 1
        assert not rest, "a frame lacks buffers"
        return frames

    def send(self, *parts: bytes, header: bytes = bytes(HEADER)) -> DriverRequest:
        """Send the frame made of *parts* behind *header*, in one buffer each."""
        request = self.tx.add([header, *parts])
        self.tx.kick()
        self.run()
        self.tx.collect()
        return request

    def command(self, kind: int, number: int, data: bytes) -> int:
        """The status byte that the control queue answers a command with."""
        return self.request(len(self.queues) - 1, [bytes((kind, number)), data], [1])[0]


@contextmanager
def wired(**keys: Any) -> Iterator[tuple[NetDriver, Wire]]:
    """A driver of a device whose backend is a Wire; *keys* are the FakeDriver's."""
    wire = Wire()
    with NetDriver(Net(wire, mac=bytes.fromhex("525400000001")), **keys) as driver:
        yield driver, wire


def frame(size: int, destination: bytes = BROADCAST, source: bytes = OTHER) -> bytes:
    """A frame of *size* bytes in all; each byte of its body depends on its offset."""
    return destination + source + b"\x88\xb5" + (_BODY * (size // len(_BODY) + 1))[: size - 14]
