"""The guest's half of the vsock protocol on the fake driver: packets in and out, nothing done by itself."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import NamedTuple

from pyvmm.testing import FakeDriver
from pyvmm.virtio.vsock import packet as p
from pyvmm.virtio.vsock.device import RX, TX, Vsock

CID = 3
PORT = 1234
#: The room a receive buffer has for data.
ROOM = 4096


class Packet(NamedTuple):
    source: int
    target: int
    host_port: int
    guest_port: int
    size: int
    kind: int
    op: int
    flags: int
    buf_alloc: int
    fwd_cnt: int
    data: bytes


class VsockGuest:
    """A device on a socket in a folder of its own, and a driver that keeps *buffers* receive buffers."""

    def __init__(self, buffers: int = 64, room: int = ROOM, **options: object) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="vsock")
        self.path = str(Path(self.folder.name, "v"))
        self.device = Vsock(CID, self.path)
        self.driver = FakeDriver(self.device, **options)  # type: ignore[arg-type]
        self.room = room
        self.buf_alloc = 256 << 10
        self.fwd_cnt = 0
        self.waiting: list[Packet] = []
        self.sockets: list[socket.socket] = []
        self.offer(buffers)

    def __enter__(self) -> VsockGuest:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self.sockets:
            sock.close()
        self.driver.close()
        self.folder.cleanup()

    # The guest

    def offer(self, buffers: int, room: int | None = None) -> None:
        """Give the device *buffers* more receive buffers."""
        queue = self.driver.queues[RX]
        for _ in range(buffers):
            queue.add(writable=[p.HEADER_SIZE, self.room if room is None else room])
        queue.kick()
        self.driver.run()

    def post(
        self,
        op: int,
        data: bytes = b"",
        *,
        port: int = PORT,
        host_port: int = 80,
        size: int | None = None,
        flags: int = 0,
        source: int = CID,
        target: int = p.CID_HOST,
        kind: int = p.TYPE_STREAM,
    ) -> None:
        """Put one packet into the transmit queue."""
        length = len(data) if size is None else size
        header = p.HEADER.pack(
            source, target, port, host_port, length, kind, op, flags, self.buf_alloc, self.fwd_cnt
        )
        self.driver.queues[TX].add([header, data] if data else [header])

    def send(self, op: int, data: bytes = b"", **fields: int) -> None:
        """``post``, and let the device work."""
        self.post(op, data, **fields)
        self.turn()

    def turn(self) -> None:
        """Kick, run, and take what came; each buffer goes back to the device."""
        self.driver.queues[TX].kick()
        self.driver.run()
        self.driver.queues[TX].collect()
        self.collect()

    def collect(self, again: bool = True) -> None:
        queue = self.driver.queues[RX]
        while done := queue.collect():
            for request in done:
                if not request.written:
                    continue  # one the device has no use for
                data = queue.data(request)
                self.waiting.append(Packet(*p.HEADER.unpack(data[: p.HEADER_SIZE]), data[p.HEADER_SIZE :]))
            if again:
                self.offer(len(done))

    def packets(self) -> list[Packet]:
        """What the device has sent since the last call."""
        self.driver.run()
        self.collect()
        waiting, self.waiting = self.waiting, []
        return waiting

    def ops(self) -> list[int]:
        return [packet.op for packet in self.packets()]

    def receive(self, size: int) -> bytes:
        """*size* bytes of stream data, and return their credit."""
        data = b""
        while len(data) < size:
            self.driver.run(lambda: self.collect() or self.waiting)
            for packet in self.packets():
                assert packet.op in (p.OP_RW, p.OP_CREDIT_REQUEST), packet
                data += packet.data
                self.fwd_cnt += packet.size
            self.send(p.OP_CREDIT_UPDATE)
        return data

    # The host

    def listen(self, port: int = 80, backlog: int = 16) -> socket.socket:
        """A program that listens for guest connections to *port*."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{self.path}_{port}")
        listener.listen(backlog)
        listener.settimeout(10)
        self.sockets.append(listener)
        return listener

    def connect(self, line: bytes = b"CONNECT 1234\n") -> socket.socket:
        """A program that connects to PATH and says *line*."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect(self.path)
        sock.sendall(line)
        self.sockets.append(sock)
        return sock

    def connection(self, port: int = PORT) -> socket.socket:
        """A connection the guest began, open; the program's end of it."""
        listener = self.listen()
        self.send(p.OP_REQUEST, port=port)
        assert self.ops() == [p.OP_RESPONSE]
        sock, _ = listener.accept()
        sock.settimeout(10)
        self.sockets.append(sock)
        return sock

    def sink(self, sock: socket.socket, size: int) -> bytes:
        """*size* bytes from the program's end, the device running meanwhile."""
        data = b""
        sock.setblocking(False)
        while len(data) < size:
            try:
                part = sock.recv(size - len(data))
            except BlockingIOError:
                self.driver.run()
                continue
            assert part, "the stream ended early"
            data += part
        sock.settimeout(10)
        return data
