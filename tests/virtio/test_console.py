"""The console device, driven by the fake driver: data, back-pressure, memory (BAD_INPUT row 20)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from pyvmm.backends.base import CharBackend
from pyvmm.backends.inlet import Inlet
from pyvmm.backends.outlet import Outlet
from pyvmm.loop import Loop
from pyvmm.testing import FakeDriver
from pyvmm.virtio.console import VirtioConsole
from pyvmm.virtio.console_port import Port

RX, TX = 0, 1


class PipeEnds(CharBackend):
    """A backend over two pipes, the other ends of which are the test's: ``reader`` and ``writer``."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self._out = os.pipe()
        self._in, self.writer = os.pipe()
        for fd in (self._out, self._in, self.writer):
            os.set_blocking(fd, False)
        self._outlet = Outlet(self)

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        self._inlet = Inlet(loop, receive, space)
        self._inlet.open(self._in)
        self._outlet.open(loop, self._out)

    def offer(self, views):  # type: ignore[no-untyped-def]
        return self._outlet.offer(views)

    def resume(self) -> None:
        self._inlet.resume()

    def close(self) -> None:
        if self._out >= 0:
            self._inlet.close()
            self._outlet.close()
            for fd in (self.reader, self._out, self._in, self.writer):
                os.close(fd)
            self._out = -1


@pytest.fixture
def ends() -> PipeEnds:
    return PipeEnds()


@pytest.fixture
def driver(ends: PipeEnds) -> Iterator[FakeDriver]:
    with FakeDriver(VirtioConsole([Port(ends)])) as driver:
        yield driver


def read_now(fd: int) -> bytes:
    os.set_blocking(fd, False)
    data = b""
    try:
        while part := os.read(fd, 65536):
            data += part
    except BlockingIOError:
        pass
    return data


def test_output_in_several_chains_arrives_in_order(driver: FakeDriver, ends: PipeEnds) -> None:
    for text in (b"one ", b"two ", b"three"):
        driver.queues[TX].add([text[:2], text[2:]])
    driver.queues[TX].kick()
    driver.run()

    assert read_now(ends.reader) == b"one two three"
    assert len(driver.queues[TX].collect()) == 3
