"""The console's driver on the fake driver, and a backend whose other ends are the test's."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from pyvmm.backends.base import CharBackend
from pyvmm.backends.reader import DescriptorReader
from pyvmm.backends.writer import DescriptorWriter
from pyvmm.loop import Loop
from pyvmm.testing import FakeDriver

RX, TX = 0, 1


class PipeEnds(CharBackend):
    """A backend over two pipes, whose other ends are the test's: ``reader`` and ``writer``."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self._out = os.pipe()
        self._in, self.writer = os.pipe()
        for fd in (self.reader, self._out, self._in, self.writer):
            os.set_blocking(fd, False)
        self._writer = DescriptorWriter(self)

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        self._reader = DescriptorReader(loop, receive, space)
        self._reader.open(self._in)
        self._writer.open(loop, self._out)

    def offer(self, views: Sequence[memoryview]) -> int:
        return self._writer.offer(views)

    def resume(self) -> None:
        self._reader.resume()

    def close(self) -> None:
        if self._out >= 0:
            self._reader.close()
            self._writer.close()
            for fd in (self.reader, self._out, self._in, self.writer):
                os.close(fd)
            self._out = -1

    def read(self) -> bytes:
        """What has come out by now."""
        data = b""
        try:
            while part := os.read(self.reader, 65536):
                data += part
        except BlockingIOError:
            pass
        return data

    def fill(self, data: bytes = bytes(65536)) -> int:
        """Put as much into the input pipe as it takes; returns how much that was."""
        done = 0
        try:
            while True:
                done += os.write(self.writer, data)
        except BlockingIOError:
            return done


def send(driver: FakeDriver, *chains: Sequence[bytes], queue: int = TX) -> None:
    for parts in chains:
        driver.queues[queue].add(parts)
    driver.queues[queue].kick()
    driver.run()


def give_buffers(driver: FakeDriver, *sizes: int, queue: int = RX) -> None:
    for size in sizes:
        driver.queues[queue].add(writable=[size])
    driver.queues[queue].kick()
    driver.run()


def received(driver: FakeDriver, queue: int = RX) -> bytes:
    ring = driver.queues[queue]
    return b"".join(ring.data(request) for request in ring.collect())
