"""Backends of the fuzzed devices, in memory: they use no resource of the host."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from functools import cache

from pyvmm.backends.base import CharBackend
from pyvmm.backends.disk.base import SECTOR, Disk
from pyvmm.backends.net.base import ALL_OFFLOADS, HEADER, MAX_FRAME, NetBackend
from pyvmm.loop import Loop
from pyvmm.virtio.console.device import VirtioConsole
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.net.device import Net
from pyvmm.virtio.vsock.device import Vsock

DISK_SIZE = 64 << 10


class MemoryDisk(Disk):
    """A disk in memory that checks every request."""

    path = "memory"

    def __init__(self, readonly: bool = False) -> None:
        self.readonly = readonly
        self.size = DISK_SIZE
        self._data = bytearray(DISK_SIZE)

    def read(self, views: Sequence[memoryview], offset: int, size: int) -> None:
        self._check(offset, size, views)
        for view in views:
            view[:] = self._data[offset : offset + view.nbytes]
            offset += view.nbytes

    def write(self, views: Sequence[memoryview], offset: int, size: int, durable: bool) -> None:
        assert not self.readonly
        self._check(offset, size, views)
        data = b"".join(views)
        self._data[offset : offset + len(data)] = data

    def flush(self) -> None:
        pass

    def discard(self, offset: int, size: int) -> None:
        self._check(offset, size)
        if offset == SECTOR:
            raise OSError(errno.EOPNOTSUPP, "not here")

    def write_zeroes(self, offset: int, size: int, unmap: bool, durable: bool) -> None:
        self._check(offset, size)
        self._data[offset : offset + size] = bytes(size)

    def refresh(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def _check(self, offset: int, size: int, views: Sequence[memoryview] | None = None) -> None:
        assert not offset % SECTOR and not size % SECTOR and 0 <= offset <= offset + size <= self.size
        if views is not None:
            assert sum(view.nbytes for view in views) == size
        assert len(self._data) == DISK_SIZE


class MemoryCable(NetBackend):
    """A network backend that reads every frame whole and drops it."""

    offloads = ALL_OFFLOADS
    foreign = True
    pairs = 2

    def send(self, pair: int, views: list[memoryview]) -> None:
        assert HEADER <= len(b"".join(views)) <= HEADER + MAX_FRAME


class MemoryEnd(CharBackend):
    """A character backend that accepts as many bytes as it has room for."""

    def __init__(self) -> None:
        super().__init__()
        self.room = 0
        self.receive: Callable[[bytes], object]
        self.space: Callable[[], int]

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        self.receive, self.space = receive, space

    def offer(self, views: Sequence[memoryview]) -> int:
        data = b"".join(views)
        taken = min(len(data), self.room)
        self.room -= taken
        return taken

    def size(self) -> tuple[int, int] | None:
        return 80, 25


def feed_net(device: VirtioDevice, data: bytes) -> None:
    """A frame from another guest: its header as it comes, its body as often as the first byte says."""
    assert isinstance(device, Net)
    sink = device.backend.sink
    frame = data[HEADER:] * (1 + data[0]) if len(data) > HEADER + 14 else b""
    if sink is not None and frame:
        frame = frame[:MAX_FRAME]
        sink.deliver(data[0] & 1, data[:HEADER], [memoryview(frame)], len(frame))
        sink.flush()


def feed_console(device: VirtioDevice, data: bytes) -> None:
    """Input for one port, and room for the output of all ports."""
    assert isinstance(device, VirtioConsole)
    for port in device.ports:
        assert isinstance(port.backend, MemoryEnd)
        port.backend.room = len(data) << 8
        port.backend.on_ready()
    if data:
        end = device.ports[data[0] % len(device.ports)].backend
        assert isinstance(end, MemoryEnd)
        fits = end.space()
        if fits:
            end.receive((data * 100)[:fits])


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz")


_clients: list[socket.socket] = []


def make_vsock() -> VirtioDevice:
    while _clients:
        _clients.pop().close()
    return Vsock(3, os.path.join(_folder().name, "v"))


def feed_vsock(device: VirtioDevice, data: bytes) -> None:
    """A connection into the guest, data on one that is there, or its end."""
    assert isinstance(device, Vsock)
    if len(_clients) < 4 and (not _clients or data[:1] < b"\x20"):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        _clients.append(client)
        try:
            client.connect(device.path)
        except OSError:
            return  # its queue of connections is full
        data = b"CONNECT 1\n" + data
    client = _clients[len(data) % len(_clients)]
    try:
        if data[:1] > b"\xf0":
            client.close()
            _clients.remove(client)
        else:
            client.send(data)
            client.recv(4096)
    except OSError:
        pass  # the other end is gone, or slow
