"""The entropy device, driven by the fake driver."""

from __future__ import annotations

from pyvmm.testing import FakeDriver
from pyvmm.virtio.ring.descriptor import WRITE
from pyvmm.virtio.rng.device import LIMIT, Rng


def test_request_when_buffers_are_given_fills_all_of_them() -> None:
    with FakeDriver(Rng()) as driver:
        first = driver.request(0, writable=[16, 4096])
        second = driver.request(0, writable=[16, 4096])

    assert (len(first), len(second)) == (4112, 4112)
    assert first != second


def test_request_when_buffers_are_huge_gets_the_limit() -> None:
    with FakeDriver(Rng()) as driver:
        data = driver.request(0, writable=[1 << 20, 1 << 20])

    assert len(data) == LIMIT


def test_request_when_nothing_is_writable_comes_back_empty() -> None:
    with FakeDriver(Rng()) as driver:
        request = driver.queues[0].add([b"read only"])
        driver.queues[0].kick()
        driver.run()
        driver.queues[0].collect()

    assert (request.done, request.written) == (True, 0)


def test_request_when_descriptors_overlap_gets_no_more_than_the_limit() -> None:
    # The same page, described 60 times and 16 MiB at once: what the host makes for it stays bounded.
    with FakeDriver(Rng()) as driver:
        page = driver.allocate(4096, 4096)
        region = driver.memory.regions[0]
        parts = [(page, 4096, WRITE)] * 60 + [(region.gpa + (32 << 20), 16 << 20, WRITE)] * 3
        request = driver.queues[0].add_buffers(parts)
        driver.queues[0].kick()
        driver.run()
        driver.queues[0].collect()

    assert (request.done, request.written) == (True, LIMIT)
