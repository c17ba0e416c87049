"""What an observer sees, and that nothing of it is there without one."""

from __future__ import annotations

from pyvmm.testing import FakeDriver
from pyvmm.virtio.observer import Observer, bytes_of
from pyvmm.virtio.ring.chain import Chain
from pyvmm.virtio.ring.queue import Queue
from pyvmm.virtio.transport.mmio import CONFIG, VirtioMmio
from tests.virtio.tools.devices import Shout, observed


class Log(Observer):
    """Everything but the registers."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def started(self) -> None:
        self.seen.append("started")

    def stopped(self) -> None:
        self.seen.append("stopped")

    def closed(self) -> None:
        self.seen.append("closed")

    def read(self, offset: int, size: int, value: int) -> None:
        if offset >= CONFIG:
            self.seen.append(("read", offset - CONFIG, size, value))

    def wrote(self, offset: int, size: int, value: int) -> None:
        if offset >= CONFIG:
            self.seen.append(("wrote", offset - CONFIG, size, value))

    def popped(self, queue: int, chain: Chain) -> None:
        self.seen.append(("popped", queue, bytes_of(chain.readable, 100)))

    def pushed(self, queue: int, chain: Chain, written: int) -> None:
        self.seen.append(("pushed", queue, bytes_of(chain.writable, written)))

    def interrupted(self, cause: str) -> None:
        self.seen.append(cause)


def test_observer_sees_what_passes_in_its_order() -> None:
    log = Log()
    with observed(Shout(), log) as driver:
        driver.probe()
        answer = driver.request(0, [b"hey"], [8])
        driver.write(CONFIG + 4, 1, 7)
        driver.config(0, 4)

    assert answer == b"HEY"
    assert log.seen == [
        "started",
        ("popped", 0, b"hey"),
        ("pushed", 0, b"HEY"),
        "used buffers",
        ("wrote", 4, 1, 7),
        ("read", 0, 4, 1),
        "stopped",
        "closed",
    ]


def test_chain_when_it_is_given_back_by_its_head_is_known_all_the_same() -> None:
    log, device = Log(), Shout()
    with observed(device, log) as driver:
        driver.probe()
        driver.queues[1].add([b"a"], [4])
        driver.queues[1].kick()
        driver.run()
        chain = device.kept.pop()
        chain.write(b"late")
        device.runtime.queues[1].push_head(chain.head, 4)

    assert ("pushed", 1, b"late") in log.seen


def test_chain_when_room_is_taken_by_the_short_cut_is_seen_too() -> None:
    log, device = Log(), Shout()
    with observed(device, log) as driver:
        driver.probe()
        driver.queues[1].add([], [16])
        heads: list[int] = []
        got = device.runtime.queues[1].pop_writable(16, heads, [], [])

    assert (got, len(heads)) == (16, 1)
    assert ("popped", 1, b"") in log.seen


def test_broken_chain_is_seen_as_given_back_empty() -> None:
    log = Log()
    with observed(Shout(), log) as driver:
        driver.probe()
        driver.queues[0].add_buffers([(1 << 60, 16, 0)])
        driver.queues[0].kick()
        driver.run()

    assert ("pushed", 0, b"") in log.seen


def test_two_observers_see_the_same() -> None:
    first, second = Log(), Log()
    with observed(Shout(), first, second) as driver:
        driver.probe()
        driver.request(0, [b"x"], [1])

    assert first.seen == second.seen


def test_device_without_an_observer_is_of_the_plain_classes() -> None:
    with FakeDriver(Shout()) as driver:
        assert (type(driver.device), type(driver.transport)) == (Shout, VirtioMmio)
        assert {type(queue) for queue in driver.device.runtime.queues} == {Queue}
