"""The oracle finds what a device must not do with its chains."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm.testing import FakeDriver
from pyvmm.virtio.ring.queue import Queue
from tests.fuzz.oracle import Oracle
from tests.support.rings import Copier

ROOM = 16


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    oracle = Oracle()
    with oracle.watching():
        yield oracle


@pytest.fixture
def queue(oracle: Oracle) -> Iterator[Queue]:
    """A queue with two chains of ROOM bytes each, of which nobody has taken one yet."""
    with FakeDriver(Copier()) as driver:
        for _ in range(2):
            driver.queues[0].add(writable=[ROOM])
        yield driver.device.runtime.queues[0]


def test_chain_when_completed_once_is_fine_and_counted(oracle: Oracle, queue: Queue) -> None:
    chain = queue.pop()
    oracle.check(queue)
    queue.push(chain, ROOM)

    oracle.check(queue)
    assert oracle.chains == 1


def test_chain_when_put_back_is_not_the_devices_any_more(oracle: Oracle, queue: Queue) -> None:
    chain = queue.pop()
    queue.unpop()
    oracle.check(queue)

    with pytest.raises(AssertionError, match="the device does not have it"):
        queue.push(chain, 0)


def test_chain_when_completed_twice_is_found(oracle: Oracle, queue: Queue) -> None:
    chain = queue.pop()
    queue.push(chain, 0)

    with pytest.raises(AssertionError, match="the device does not have it"):
        queue.push(chain, 0)


def test_chain_when_it_claims_more_than_its_room_is_found(oracle: Oracle, queue: Queue) -> None:
    chain = queue.pop()

    with pytest.raises(AssertionError, match=f"{ROOM + 1} bytes written of {ROOM}"):
        queue.push(chain, ROOM + 1)


@pytest.mark.parametrize(("head", "written"), [(0, ROOM + 1), (0, -1), (5, 0)])
def test_head_when_completed_wrongly_is_found(oracle: Oracle, queue: Queue, head: int, written: int) -> None:
    heads: list[int] = []
    queue.pop_writable(2 * ROOM, heads, [], [])
    assert heads == [0, 1]

    with pytest.raises(AssertionError):
        queue.push_head(head, written)


def test_heads_when_filled_together_are_completed_once_each(oracle: Oracle, queue: Queue) -> None:
    heads: list[int] = []
    sizes: list[int] = []
    queue.pop_writable(2 * ROOM, heads, sizes, [])

    assert queue.push_filled(heads, sizes, ROOM + 3) == 2
    oracle.check(queue)
    with pytest.raises(AssertionError, match="the device does not have it"):
        queue.push_filled(heads, sizes, 1)


def test_queue_when_it_lost_count_is_found(oracle: Oracle, queue: Queue) -> None:
    queue.pop()
    with oracle.watching(), pytest.raises(AssertionError, match="1 chains in flight, of 0 taken"):
        oracle.check(queue)
