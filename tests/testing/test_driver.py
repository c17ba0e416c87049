"""The fake driver: it does what a driver must, asks what a driver asks, and finds a device's mistakes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pyvmm.testing import FakeDriver
from pyvmm.virtio import features as f
from pyvmm.virtio.device import DEFERRED, Deferred
from pyvmm.virtio.ring.chain import Chain
from tests.support.rings import ALL, EVENTS, PLAIN, SEAM, Copier, Pair, two_regions


class Silent(Copier):
    """Keeps every request."""

    def handle(self, queue: int, chain: Chain) -> Deferred:
        return DEFERRED


class Wrong(Copier):
    """Completes a chain that it was not given."""

    def handle(self, queue: int, chain: Chain) -> None:
        chain.head = (chain.head + 1) % 16


class Unwilling(Copier):
    """Does not start."""

    def started(self) -> None:
        raise OSError("no")


@pytest.mark.parametrize("features", [PLAIN, EVENTS, ALL, None])
@pytest.mark.parametrize("indirect", [False, True])
def test_request_when_served_returns_what_the_device_wrote(features: int | None, indirect: bool) -> None:
    indirect = indirect and features in (ALL, None)
    with FakeDriver(Copier(), features=features) as driver:
        for n in range(50):
            data = b"%d" % n * 5
            assert driver.request(0, [data[:2], data[2:]], [3, 64], indirect=indirect) == data


def test_request_when_the_device_keeps_it_times_out() -> None:
    with (
        FakeDriver(Silent()) as driver,
        pytest.raises(TimeoutError, match=r"within 0\.05 seconds"),
    ):
        driver.request(0, [b"x"], timeout=0.05)


def test_collect_when_the_device_completes_what_it_was_not_given_fails() -> None:
    with FakeDriver(Wrong()) as driver:
        driver.queues[0].add([b"x"])
        driver.queues[0].kick()
        driver.run()

        with pytest.raises(AssertionError, match="which the driver did not make available"):
            driver.queues[0].collect()


def test_probe_when_python_drops_assertions_negotiates_all_the_same() -> None:
    script = (
        "from pyvmm.testing import FakeDriver\n"
        "from pyvmm.virtio.rng.device import Rng\n"
        "with FakeDriver(Rng()) as driver:\n"
        "    print(driver.features >> 32, len(driver.request(0, writable=[8])))\n"
        "    driver.queues[0].pending.clear()\n"
        "    driver.queues[0].add(writable=[8])\n"
        "    driver.queues[0].pending.clear()\n"
        "    driver.queues[0].kick()\n"
        "    driver.run()\n"
        "    try:\n"
        "        driver.queues[0].collect()\n"
        "    except AssertionError as error:\n"
        "        print(error)\n"
    )

    done = subprocess.run([sys.executable, "-O", "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == [
        "1 8",
        "the device completed 0, which the driver did not make available",
    ]


def test_probe_when_the_device_does_not_start_fails() -> None:
    driver = FakeDriver(Unwilling(), start=False)
    with driver, pytest.raises(AssertionError, match="the device did not start"):
        driver.probe()


def test_probe_when_features_are_not_offered_fails() -> None:
    with pytest.raises(AssertionError, match="FEATURES_OK was refused"):
        FakeDriver(Copier(), features=PLAIN | f.F_RING_PACKED)


def test_add_when_descriptors_run_out_raises() -> None:
    with FakeDriver(Copier()) as driver:
        ring = driver.queues[0]
        for _ in range(8):
            ring.add([b"a"], [1])
        assert ring.free == 0

        with pytest.raises(IndexError):
            ring.add([b"one more"])


def test_descriptors_when_requests_come_back_are_free_again() -> None:
    with FakeDriver(Copier()) as driver:
        for _ in range(100):
            driver.request(0, [b"a"], [1])

        assert driver.queues[0].free == 16


@pytest.mark.parametrize("features", [PLAIN, EVENTS])
def test_kick_when_the_device_asked_for_none_does_not_notify(features: int) -> None:
    with FakeDriver(Copier(), features=features) as driver:
        ring, queue = driver.queues[0], driver.device.runtime.queues[0]
        ring.add([b"a"])
        assert ring.kick() is True
        queue.disable_notification()
        ring.add([b"b"])
        assert ring.kick() is False
        driver.run()
        ring.add([b"c"])

        assert ring.kick() is True


def test_queue_size_when_given_is_what_the_queues_have() -> None:
    with FakeDriver(Pair(), queue_size=4) as driver:
        assert [ring.size for ring in driver.queues] == [4, 4]
        assert driver.request(1, [b"x"], [1]) == b"x"


def test_memory_when_given_stays_the_callers() -> None:
    memory = two_regions()
    with FakeDriver(Copier(), memory=memory) as driver:
        assert driver.request(0, [b"x"], [1]) == b"x"

    assert memory.read(SEAM, 4) is not None
    memory.close()


def test_allocate_when_everything_was_given_out_begins_again_behind_the_rings() -> None:
    memory = two_regions()
    with FakeDriver(Copier(), memory=memory) as driver:
        for n in range(200):
            assert driver.request(0, [b"%d" % n * 1000], [4096]) == (b"%d" % n * 1000)[:4096]

        with pytest.raises(MemoryError, match="do not fit into the fake driver's memory"):
            driver.allocate(1 << 30)
    memory.close()


def test_acknowledge_when_nothing_is_pending_is_zero() -> None:
    with FakeDriver(Copier()) as driver:
        assert driver.acknowledge() == 0
        driver.request(0, [b"x"])
        assert (driver.acknowledge(), driver.acknowledge()) == (1, 0)
