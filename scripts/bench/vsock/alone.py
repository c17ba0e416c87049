"""Prints the microseconds that a MiB takes between the guest's side of a vsock and a UNIX socket.

``vsock/alone.py in|out [bare]``: from the host to the guest, or the other way round. Only the work of the
device is timed; ``bare`` times the UNIX socket's calls alone, for the same bytes.
"""

from __future__ import annotations

import socket
import sys
import tempfile
import time
from pathlib import Path

from pyvmm.testing import FakeDriver
from pyvmm.virtio.ring.descriptor import WRITE
from pyvmm.virtio.vsock import packet as p
from pyvmm.virtio.vsock.device import RX, TX, Vsock

CID, PORT, HOST_PORT = 3, 1024, 80
#: Linux's packets to the host, and its buffers for those to the guest.
PACKET, BUFFER = 64 << 10, 4096
#: A UNIX socket takes that much at once.
ROUND = 2 * PACKET
ROUNDS = 2000
ROOM = 256 << 10


class Guest:
    """A guest's side of one stream to *program*, a socket of the host's."""

    def __init__(self, driver: FakeDriver, path: str) -> None:
        self.driver = driver
        self.taken = 0
        self.header, self.data = driver.allocate(p.HEADER_SIZE), driver.allocate(PACKET, BUFFER)
        for _ in range(driver.queues[RX].size // 2):
            buffers = [
                (driver.allocate(p.HEADER_SIZE), p.HEADER_SIZE),
                (driver.allocate(BUFFER, BUFFER), BUFFER),
            ]
            self.offer(buffers)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{path}_{HOST_PORT}")
            listener.listen()
            self.post(p.OP_REQUEST)
            driver.run()
            self.program, _ = listener.accept()
        self.collect()

    def offer(self, buffers: list[tuple[int, int]]) -> None:
        self.driver.queues[RX].add_buffers([(address, size, WRITE) for address, size in buffers], buffers)

    def post(self, op: int, size: int = 0) -> None:
        fields = CID, p.CID_HOST, PORT, HOST_PORT, size, p.TYPE_STREAM, op, 0, ROOM, self.taken
        self.driver.memory.write(self.header, p.HEADER.pack(*fields))
        data = [(self.data, size, 0)] if size else []
        self.driver.queues[TX].add_buffers([(self.header, p.HEADER_SIZE, 0), *data])
        if op != p.OP_RW:
            self.driver.queues[TX].kick()

    def collect(self) -> None:
        self.driver.queues[TX].collect()
        for request in self.driver.queues[RX].collect():
            self.taken = self.taken + request.written - p.HEADER_SIZE & p.MASK32
            self.offer(request.buffers)


def seconds_out(guest: Guest) -> float:
    """The device's time for ROUNDS to the host."""
    device, data, spent = guest.driver.device, bytearray(ROUND), 0.0
    for _ in range(ROUNDS):
        for _ in range(ROUND // PACKET):
            guest.post(p.OP_RW, PACKET)
        sent = 0
        while sent < ROUND // PACKET:  # a turn that takes too long leaves some packets to the next one
            begin = time.perf_counter()
            device.runtime.run_queue(TX)
            spent += time.perf_counter() - begin
            sent += len(guest.driver.queues[TX].collect())
        assert guest.program.recv_into(data, ROUND, socket.MSG_WAITALL) == ROUND, "the socket took less"
        guest.collect()
    return spent


def seconds_in(guest: Guest) -> float:
    """The device's time for ROUNDS to the guest: reading the socket, and the guest's word that it took it."""
    driver, data, spent = guest.driver, bytes(PACKET), 0.0
    for _ in range(ROUNDS):
        for _ in range(ROUND // PACKET):
            guest.program.sendall(data)
        want = guest.taken + ROUND & p.MASK32
        while guest.taken != want:
            begin = time.perf_counter()
            driver.loop.run_once(0)
            spent += time.perf_counter() - begin
            guest.collect()
        guest.post(p.OP_CREDIT_UPDATE)
    return spent


def bare(way: str) -> float:
    """The same bytes through a pair of UNIX sockets."""
    ours, theirs = socket.socketpair()
    packet, room, spent = bytes(PACKET), bytearray(ROUND), 0.0
    for _ in range(ROUNDS):
        before = time.perf_counter()
        for _ in range(ROUND // PACKET):
            ours.sendall(packet)
        between = time.perf_counter()
        assert theirs.recv_into(room) == ROUND
        spent += between - before if way == "out" else time.perf_counter() - between
    return spent


def main() -> None:
    way = sys.argv[1]
    if "bare" in sys.argv:
        spent = bare(way)
    else:
        with tempfile.TemporaryDirectory() as folder:
            device = Vsock(CID, str(Path(folder, "v")))
            with FakeDriver(device) as driver:
                spent = (seconds_in if way == "in" else seconds_out)(Guest(driver, device.path))
    print(spent * 1e6 / (ROUND * ROUNDS / (1 << 20)))


if __name__ == "__main__":
    main()
