"""What a driver adds as fast as it is taken does not hold the loop: each turn has an end."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from pyvmm.backends.net.switch import Switch
from pyvmm.testing import FakeDriver
from pyvmm.testing.driver import DriverQueue
from pyvmm.virtio import ids, runtime
from pyvmm.virtio.console.device import VirtioConsole
from pyvmm.virtio.console.port import Port
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.errors import QueueError
from pyvmm.virtio.net.device import Net
from pyvmm.virtio.ring.chain import Chain
from pyvmm.virtio.ring.descriptor import WRITE
from pyvmm.virtio.ring.queue import Queue
from pyvmm.virtio.vsock import packet as p
from pyvmm.virtio.vsock.device import RX, TX
from tests.support.console_driver import PipeEnds, give_buffers, received
from tests.support.vsock_guest import VsockGuest

LENGTHS = 20


class OtherCpu:
    """Another processor of the guest's: it adds a chain again as soon as its used element is written.

    It does so before the index is published, *most* times.
    """

    def __init__(self, queue: Queue, ring: DriverQueue, most: int) -> None:
        self._ring, self._left = ring, most
        self._used = queue._used
        #: Used elements written.
        self.seen = 0
        queue._used = self

    def __setitem__(self, at: int, value: Any) -> None:
        self._used[at] = value
        if not at & 1:  # the length, which is written last
            self.seen += 1
            if self._left:
                self._left -= 1
                self._ring.offer(0)


def longest_turn(driver: FakeDriver, other: OtherCpu) -> int:
    """The most used elements that one turn of the loop writes, until nothing is left to do."""
    longest = 0
    while True:
        before = other.seen
        if not driver.loop.run_once(0):
            return longest
        longest = max(longest, other.seen - before)


def hostile(driver: FakeDriver, index: int, size: int, flags: int) -> OtherCpu:
    """Offer a chain of *size* bytes in queue *index*, which is added again many times."""
    ring = driver.queues[index]
    ring.describe(0, driver.allocate(64), size, flags)
    ring._free.remove(0)
    ring.offer(0)
    return OtherCpu(driver.device.runtime.queues[index], ring, LENGTHS * ring.size)


def over(driver: FakeDriver, index: int) -> None:
    """The chain is the driver's again, and it collects the used ring as usual."""
    ring = driver.queues[index]
    ring._free.append(0)
    ring.used_idx = driver.memory.read_u16(ring.used + 2)


# The driver can have a queue's length refused by the loop's events, and once more by the calls after them.


def test_vsock_buffers_without_room_when_each_is_added_again_leave_turns_short() -> None:
    with VsockGuest(buffers=0) as guest:
        driver, size = guest.driver, guest.driver.queues[RX].size
        other = hostile(driver, RX, p.HEADER_SIZE, WRITE)
        guest.post(p.OP_RW)  # for no connection: a reset is due
        driver.queues[TX].kick()

        assert 0 < longest_turn(driver, other) <= 2 * size
        assert other.seen == LENGTHS * size + 1

        over(driver, RX)
        guest.offer(4)
        assert guest.ops() == [p.OP_RST]


def test_console_buffers_without_room_when_each_is_added_again_leave_turns_short() -> None:
    ends = PipeEnds()
    with FakeDriver(VirtioConsole([Port(ends)])) as driver:
        size = driver.queues[0].size
        other = hostile(driver, 0, 0, WRITE)
        driver.queues[0].kick()
        os.write(ends.writer, b"x")

        assert 0 < longest_turn(driver, other) <= 2 * size
        assert other.seen == LENGTHS * size + 1

        over(driver, 0)
        give_buffers(driver, 4)
        driver.run(lambda: driver.interrupts)
        assert received(driver) == b"x"


def test_net_buffers_that_are_read_only_when_each_is_added_again_leave_turns_short() -> None:
    switch = Switch()
    with FakeDriver(Net(switch.port())) as sender, FakeDriver(Net(switch.port())) as driver:
        size = driver.queues[0].size
        other = hostile(driver, 0, 64, 0)
        frame = bytes(12) + driver.device.config.mac + bytes(60)
        for _ in range(40):
            sender.queues[1].add([frame])
        sender.queues[1].kick()
        sender.run()  # frames are delivered in the sender's turn
        assert other.seen <= 2 * size

        assert longest_turn(driver, other) <= 2 * size
        over(driver, 0)
        requests = [driver.queues[0].add(writable=[2000]) for _ in range(40)]
        driver.queues[0].kick()
        driver.run()
        driver.queues[0].collect()
        assert [request.written for request in requests] == [len(frame)] * 40


class Slow(VirtioDevice):
    """Each of its requests takes a millisecond of *clock*."""

    device_id = ids.ENTROPY
    name = "slow"
    queue_sizes = (64,)

    def __init__(self, pass_time: Callable[[float], object]) -> None:
        super().__init__()
        self._pass_time = pass_time
        self.handled = 0

    def handle(self, queue: int, chain: Chain) -> None:
        self.handled += 1
        self._pass_time(0.001)


def test_requests_that_take_long_are_served_over_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(runtime, "monotonic", lambda: now[0])
    device = Slow(pass_time)
    with FakeDriver(device) as driver:
        for _ in range(64):
            driver.queues[0].add([b"x"])
        driver.queues[0].kick()

        turns = []
        while device.handled < 64:
            before = device.handled
            driver.loop.run_once(0)
            turns.append(device.handled - before)

        assert max(turns) == 8
        driver.run()
        assert len(driver.queues[0].collect()) == 64


def test_turn_when_the_device_is_to_stop_ends_after_the_request_under_way() -> None:
    device = Slow(lambda seconds: setattr(device.runtime, "stopping", True))
    with FakeDriver(device) as driver:
        for _ in range(64):
            driver.queues[0].add([b"x"])

        device.runtime.run_queue(0)

        assert device.handled == 1


def test_chain_added_before_the_driver_can_know_that_it_is_free_breaks_the_ring() -> None:
    """Whatever a device does with its chains: no loop over them is endless."""
    with FakeDriver(Slow(lambda seconds: None)) as driver:
        queue, ring = driver.device.runtime.queues[0], driver.queues[0]
        ring.describe(0, driver.allocate(8), 8)
        served: list[Chain] = []

        def serve() -> None:
            while (chain := queue.pop()) is not None:
                queue.push(chain, 0)
                served.append(chain)
                ring.offer(0)

        ring.offer(0)
        with pytest.raises(QueueError, match="entries 0 are free"):
            serve()

        assert len(served) == ring.size
