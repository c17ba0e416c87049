"""VirtioDevice: one thing at a time, nothing after stop, nothing starves, nothing spins."""

from __future__ import annotations

import os
import threading

import pytest

from pyvmm.loop import READ, LoopThread
from pyvmm.memory.errors import GuestMemoryError
from pyvmm.testing import FakeDriver
from pyvmm.virtio.device import DEFERRED, Deferred
from pyvmm.virtio.errors import ChainError, QueueError
from pyvmm.virtio.ring.chain import Chain
from pyvmm.virtio.ring.queue import Queue
from pyvmm.virtio.transport import mmio
from pyvmm.virtio.transport.interrupt import CONFIG_CHANGE
from tests.support.rings import ALL, EVENTS, PLAIN, Copier, Pair, count

PATIENCE = 10.0


class Blocking(Copier):
    """Stays in ``handle`` until it is let go."""

    name = "blocking"
    own_thread = True

    def __init__(self) -> None:
        super().__init__()
        self.inside = threading.Event()
        self.go = threading.Event()
        self.touched_after_stop = False
        self.over = False

    def handle(self, queue: int, chain: Chain) -> None:
        self.inside.set()
        self.go.wait(PATIENCE)
        self.touched_after_stop |= self.over
        chain.write(b"done")


class Raising(Copier):
    """Raises what it is given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    def handle(self, queue: int, chain: Chain) -> None:
        error, self.error = self.error, None
        if error is not None:
            chain.write(b"half")
            raise error
        super().handle(queue, chain)


class Watching(Copier):
    """Watches a descriptor that it never reads."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd
        self.called = 0

    def started(self) -> None:
        self.runtime.watch(self.fd, READ, self.ready)

    def ready(self, events: int) -> None:
        self.called += 1


# Row 23: reset while a request is under way


def test_stop_when_a_request_is_under_way_waits_and_nothing_is_touched_after() -> None:
    device = Blocking()
    with FakeDriver(device) as driver:
        driver.queues[0].add([b"x"], [8])
        served = threading.Thread(target=device.runtime.run_queue, args=(0,))
        served.start()
        assert device.inside.wait(PATIENCE)

        reset = threading.Thread(target=driver.reset)
        reset.start()
        reset.join(0.1)
        assert reset.is_alive()
        device.go.set()
        reset.join(PATIENCE)
        device.over = True
        served.join(PATIENCE)

        assert (driver.status, device.runtime.active, device.touched_after_stop) == (0, False, False)


def test_stop_when_another_device_blocks_in_its_own_thread_does_not_wait() -> None:
    blocking, other = Blocking(), Copier()
    thread = LoopThread("blocking")
    try:
        with FakeDriver(blocking) as driver, FakeDriver(other) as quick:
            blocking.runtime.loop = thread.loop
            driver.queues[0].add([b"x"], [8])
            thread.loop.call_soon(lambda: blocking.runtime.run_queue(0))
            assert blocking.inside.wait(PATIENCE)

            assert quick.request(0, [b"quick"], [8]) == b"quick"
            quick.reset()

            blocking.go.set()
    finally:
        thread.close()


def test_run_queue_when_stopped_or_reset_meanwhile_does_nothing() -> None:
    device = Copier()
    with FakeDriver(device) as driver:
        driver.queues[0].add([b"x"], [8])
        driver.reset()
        device.runtime.run_queue(0)

        assert device.seen == []


def test_reset_when_hammered_while_requests_run_serves_all_of_the_last_life() -> None:
    device = Pair()
    thread = LoopThread("pair")
    with FakeDriver(device) as driver:
        device.runtime.loop = thread.loop
        driver.transport._kick = lambda queue: thread.loop.call_soon(lambda: device.runtime.run_queue(queue))
        try:
            for n in range(200):
                driver.probe()
                for ring in driver.queues:
                    for _ in range(4):
                        ring.add([b"%d" % n], [8])
                    driver.write(mmio.QUEUE_NOTIFY, 4, ring.index)
            last = [request for ring in driver.queues for request in ring.pending.values()]
            driver.run(lambda: [ring.collect() for ring in driver.queues] and all(r.done for r in last))
        finally:
            thread.close()

        assert all(request.written == 3 for request in last)


# What a request may raise


@pytest.mark.parametrize("error", [ChainError("bad"), GuestMemoryError("outside")])
def test_handle_when_a_request_breaks_a_rule_gives_it_back_as_far_as_written(
    error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    with FakeDriver(Raising(error)) as driver:
        assert driver.request(0, [b"x"], [8]) == b"half"
        assert driver.request(0, [b"next"], [8]) == b"next"
    assert count(capfd, "a request of the driver's was refused") == 1


def test_handle_when_the_ring_is_broken_stops_the_device_until_reset() -> None:
    with FakeDriver(Raising(QueueError("broken"))) as driver:
        driver.queues[0].add([b"x"], [8])
        driver.queues[0].kick()
        driver.run()

        assert driver.status & 64
        assert driver.acknowledge() & CONFIG_CHANGE
        driver.probe()
        assert driver.request(0, [b"again"], [8]) == b"again"


def test_handle_when_the_device_has_a_defect_tells_the_machine() -> None:
    error = ZeroDivisionError()
    with FakeDriver(Raising(error)) as driver:
        told: list[tuple[str, Exception]] = []
        driver.transport._failed = lambda name, error: told.append((name, error))
        driver.queues[0].add([b"x"], [8])
        driver.queues[0].kick()
        driver.run()

        assert told == [("copier", error)]


def test_callback_when_it_raises_a_guests_error_stops_the_device_not_the_machine() -> None:
    device = Copier()
    with FakeDriver(device) as driver:

        def refuse() -> None:
            raise ChainError("noticed late")

        device.runtime.soon(refuse)
        driver.run()

        assert driver.status & 64


# Callbacks belong to a life


def test_callbacks_when_asked_for_before_a_reset_are_never_called() -> None:
    device = Copier()
    with FakeDriver(device) as driver:
        called: list[str] = []
        device.runtime.soon(lambda: called.append("soon"))
        device.runtime.later(0, lambda: called.append("later"))
        driver.probe()
        driver.run()

        assert called == []
        device.runtime.soon(lambda: called.append("this life"))
        driver.run()
        assert called == ["this life"]


def test_later_when_it_fires_at_once_in_the_loops_thread_is_forgotten() -> None:
    device = Copier()
    with FakeDriver(device) as driver:
        fired: list[int] = []
        for n in range(100):
            device.runtime.later(0, lambda n=n: fired.append(n))  # type: ignore[misc]
            driver.run()

        assert fired == list(range(100))
        assert device.runtime.loop.run_once(0) == 0


def test_watched_descriptor_when_the_device_broke_does_not_keep_the_loop_turning(
    pipe: tuple[int, int],
) -> None:
    device = Watching(pipe[0])
    with FakeDriver(device) as driver:
        os.write(pipe[1], b"x")
        driver.loop.run_once(0)
        assert device.called == 1
        driver.queues[0].set_avail_idx(1000)
        driver.write(mmio.QUEUE_NOTIFY, 4, 0)
        driver.loop.run_once(0)
        assert driver.status & 64
        called = device.called

        assert driver.loop.run_once(0) == 0
        assert device.called == called


def test_watched_descriptor_when_the_device_is_started_again_is_watched_again(pipe: tuple[int, int]) -> None:
    device = Watching(pipe[0])
    with FakeDriver(device) as driver:
        driver.reset()
        os.write(pipe[1], b"x")
        assert driver.loop.run_once(0) == 0
        negotiate_and_start(driver)
        driver.loop.run_once(0)

        assert device.called >= 1
        device.runtime.unwatch(pipe[0])


def negotiate_and_start(driver: FakeDriver) -> None:
    """As probe, without turning the loop until nothing is left to do."""
    driver.write(mmio.STATUS, 4, 3)
    assert driver.negotiate(ALL)
    driver.driver_ok()


# Fairness and notifications


@pytest.mark.parametrize("features", [PLAIN, EVENTS, ALL])
def test_batch_when_the_driver_never_stops_ends_after_a_queues_length(features: int) -> None:
    device = Pair()
    with FakeDriver(device, features=features) as driver:
        first, second = driver.queues
        handle = device.handle

        def more(queue: int, chain: Chain) -> None:
            if queue == 0 and len(device.seen) < 500:
                first.add_buffers([(driver.memory.regions[0].gpa, 1, 0)])  # as fast as it is served
                first._free.append(first.pending.popitem()[1].head)
            handle(queue, chain)

        device.handle = more  # type: ignore[method-assign]
        first.add([b"x"])
        driver.write(mmio.QUEUE_NOTIFY, 4, 0)
        second.add([b"second"])
        driver.write(mmio.QUEUE_NOTIFY, 4, 1)
        for _ in range(2):
            driver.loop.run_once(0)

        assert b"second" in [data for data, _ in device.seen]
        assert len(device.seen) <= 2 * 16 + 2


@pytest.mark.parametrize("features", [PLAIN, EVENTS])
def test_complete_when_it_comes_later_gives_back_and_interrupts(features: int) -> None:
    class Later(Copier):
        def handle(self, queue: int, chain: Chain) -> Deferred:
            def late() -> None:
                chain.write(b"late")
                self.complete(queue, chain)

            self.runtime.soon(late)
            return DEFERRED

    with FakeDriver(Later(), features=features) as driver:
        assert [driver.request(0, [b"x"], [8]) for _ in range(40)] == [b"late"] * 40
        assert driver.interrupts == 40


def test_started_when_it_fails_leaves_nothing_watched(pipe: tuple[int, int]) -> None:
    class Failing(Watching):
        def started(self) -> None:
            super().started()
            raise OSError("no")

    with FakeDriver(Failing(pipe[0]), start=False) as driver:
        os.write(pipe[1], b"x")
        negotiate_and_start(driver)

        assert driver.status & 64
        assert driver.loop.run_once(0) == 0


def test_unready_queue_when_the_device_uses_it_all_the_same_is_empty() -> None:
    # A guest may start a device with some queues left out; the host's side may have data for them.
    class Eager(Pair):
        def started(self) -> None:
            self.runtime.soon(self.look)

        def look(self) -> None:
            queue: Queue = self.runtime.queues[1]
            queue.disable_notification()
            assert queue.pop() is None
            assert not queue.enable_notification()
            self.runtime.publish(queue)

    with FakeDriver(Eager(), start=False) as driver:
        negotiate_and_start(driver)
        driver.run()

        assert driver.status & 64 == 0
