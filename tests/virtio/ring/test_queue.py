"""The split queue's rules, each broken in turn: virtio 1.2 section 2.7, driven by the fake driver."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import Anonymous
from pyvmm.testing import FakeDriver
from pyvmm.testing.driver import DriverQueue
from pyvmm.virtio.errors import QueueError, StateError
from pyvmm.virtio.ring import persist
from pyvmm.virtio.ring.chain import Chain
from pyvmm.virtio.ring.descriptor import INDIRECT as TABLE
from pyvmm.virtio.ring.descriptor import NEXT, WRITE
from pyvmm.virtio.ring.queue import Queue
from tests.support import rings
from tests.support.rings import ALL, END, EVENTS, LOW, PAGE, PLAIN, ROM, SEAM, Copier, chains, count

SIZE = 16


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = rings.two_regions()
    yield memory
    memory.close()


@pytest.fixture
def driver(memory: GuestMemory) -> Iterator[FakeDriver]:
    with FakeDriver(Copier(), memory=memory) as driver:
        yield driver


@pytest.fixture
def ring(driver: FakeDriver) -> DriverQueue:
    return driver.queues[0]


@pytest.fixture
def queue(driver: FakeDriver) -> Queue:
    return driver.device.runtime.queues[0]


def make(memory: GuestMemory, features: int = ALL, position: int = 0, **fields: int) -> Queue:
    """A queue set up rightly but for *fields*, activated at *position* of the rings."""
    queue = Queue(0, SIZE)
    right = {"size": SIZE, "desc": LOW, "driver": LOW + 0x1000, "device": LOW + 0x2000, "ready": 1}
    for name, value in (right | fields).items():
        setattr(queue, name, value)
    queue.begin_at(position)
    queue.activate(memory, features)
    return queue


def refused(queue: Queue) -> bool:
    """Whether the one chain made available is completed unused: length 0, counted."""
    before = queue.bad_chains
    assert queue.pop() is None
    queue.publish()
    return queue.bad_chains == before + 1


# Row 1: sizes


@pytest.mark.parametrize("size", [0, 3, 15, 17, 2 * SIZE, 32768, 65536, 0xFFFF_FFFF])
def test_activate_when_size_is_no_power_of_two_up_to_the_largest_is_refused(
    memory: GuestMemory, size: int
) -> None:
    with pytest.raises(QueueError, match=f"has size {size}; it must be a power of two up to {SIZE}"):
        make(memory, size=size)


@pytest.mark.parametrize("size", [1, 2, 8, 16])
def test_activate_when_size_is_a_smaller_power_of_two_is_accepted(memory: GuestMemory, size: int) -> None:
    assert make(memory, size=size).pop() is None


# Row 2: alignment (2.7: 16, 2, 4)


@pytest.mark.parametrize(
    ("field", "address", "name", "align"),
    [
        ("desc", LOW + 8, "descriptor table", 16),
        ("desc", LOW + 1, "descriptor table", 16),
        ("driver", LOW + 0x1001, "available ring", 2),
        ("device", LOW + 0x2002, "used ring", 4),
        ("device", LOW + 0x2001, "used ring", 4),
    ],
)
def test_activate_when_ring_is_misaligned_is_refused(
    memory: GuestMemory, field: str, address: int, name: str, align: int
) -> None:
    with pytest.raises(QueueError, match=f"the {name} at {address:#x} must be aligned to {align} bytes"):
        make(memory, **{field: address})


# Row 3: rings outside memory


@pytest.mark.parametrize("field", ["desc", "driver", "device"])
@pytest.mark.parametrize(
    "address", [0, END, END - 16, LOW - 16, 1 << 40, (1 << 64) - 16, ROM + PAGE - 16], ids=hex
)
def test_activate_when_ring_is_not_wholly_in_memory_is_refused(
    memory: GuestMemory, field: str, address: int
) -> None:
    with pytest.raises(QueueError, match="is not in memory"):
        make(memory, **{field: address})


def test_activate_when_used_ring_is_in_rom_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(QueueError, match=r"its used ring is not in memory.*read-only"):
        make(memory, device=ROM)


def test_activate_when_a_ring_ends_with_memory_is_accepted(memory: GuestMemory) -> None:
    assert make(memory, device=END - (6 + 8 * SIZE) & ~3).pop() is None


@pytest.mark.parametrize("field", ["desc", "driver", "device"])
@pytest.mark.parametrize("before", [4, 16, 48])
def test_rings_when_they_straddle_two_regions_work(memory: GuestMemory, field: str, before: int) -> None:
    with FakeDriver(Copier(), memory=memory, start=False) as driver:
        move_ring(driver, field, SEAM - (16 if field == "desc" else before))
        for n in range(3 * SIZE):
            assert driver.request(0, [b"request %d" % n], [64]) == b"request %d" % n


def move_ring(driver: FakeDriver, field: str, address: int) -> None:
    """Start *driver* with one of its ring's parts at *address*."""
    place = {"desc": "desc", "driver": "avail", "device": "used"}[field]
    original = DriverQueue.__init__

    def placed(ring: DriverQueue, driver: FakeDriver, index: int, size: int) -> None:
        original(ring, driver, index, size)
        setattr(ring, place, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DriverQueue, "__init__", placed)
        driver.probe()


# Row 4: not ready


def test_queue_when_it_was_not_made_ready_never_has_a_chain_and_takes_what_is_given_back() -> None:
    queue = Queue(0, SIZE)

    queue.disable_notification()
    assert queue.pop() is None
    assert queue.enable_notification() is False
    queue.push_head(3, 0)
    assert queue.publish() is False


# Row 6: the available index


def test_pop_when_index_is_more_than_the_queue_ahead_says_the_ring_is_broken(
    ring: DriverQueue, queue: Queue
) -> None:
    ring.set_avail_idx(SIZE + 1)

    with pytest.raises(
        QueueError, match=r"index 17 is 17 ahead of 0, and of the queue's 16 entries 16 are free"
    ):
        queue.pop()


def test_pop_when_index_goes_back_says_the_ring_is_broken(ring: DriverQueue, queue: Queue) -> None:
    ring.add([b"one"])
    assert queue.pop() is not None
    ring.set_avail_idx(0)

    with pytest.raises(QueueError, match="is 65535 ahead of 1"):
        queue.pop()


def test_pop_when_more_is_offered_than_entries_are_free_says_the_ring_is_broken(
    ring: DriverQueue, queue: Queue
) -> None:
    # What is in flight takes entries too: a device that keeps chains could be made to keep any number.
    ring.add([b"one"])
    assert queue.pop() is not None
    ring.set_avail_idx(1 + SIZE)

    with pytest.raises(QueueError, match="of the queue's 16 entries 15 are free"):
        queue.pop()


def test_index_when_too_far_ahead_stops_the_device_once_until_it_is_reset(
    driver: FakeDriver, ring: DriverQueue, capfd: pytest.CaptureFixture[str]
) -> None:
    ring.set_avail_idx(1000)
    for _ in range(10):
        ring.kick()
        driver.run()

    assert count(capfd, "stopped until its driver resets it") == 1
    assert driver.status & 64
    assert driver.acknowledge() & 2
    driver.probe()
    assert driver.request(0, [b"again"], [8]) == b"again"


# Row 7: indices


@pytest.mark.parametrize("head", [SIZE, 0x7FFF, 0xFFFF])
def test_pop_when_head_is_beyond_the_queue_says_the_ring_is_broken(
    ring: DriverQueue, queue: Queue, head: int
) -> None:
    ring.offer(head)

    with pytest.raises(QueueError, match=f"made descriptor {head} available, and the queue has 16"):
        queue.pop()


@pytest.mark.parametrize("following", [SIZE, 0x7FFF, 0xFFFF])
def test_chain_when_next_is_beyond_the_table_is_refused(
    ring: DriverQueue, queue: Queue, following: int
) -> None:
    ring.describe(0, LOW, 1, NEXT, following)
    ring.offer(0)

    assert refused(queue)


def test_chain_when_next_is_beyond_but_not_flagged_is_served(ring: DriverQueue, queue: Queue) -> None:
    ring.describe(0, LOW, 1, 0, 0xFFFF)
    ring.offer(0)

    assert len(chains(queue)) == 1


# Row 8: cycles


@pytest.mark.parametrize("length", [1, 2, 5, SIZE])
def test_chain_when_it_loops_is_refused(ring: DriverQueue, queue: Queue, length: int) -> None:
    for i in range(length):
        ring.describe(i, LOW, 1, NEXT, (i + 1) % length)
    ring.offer(0)

    assert refused(queue)


def test_chain_when_as_long_as_the_queue_is_served(ring: DriverQueue, queue: Queue) -> None:
    for i in range(SIZE):
        ring.describe(i, LOW + i, 1, NEXT if i < SIZE - 1 else 0, i + 1)
    ring.offer(0)

    assert [chain.readable_size for chain in chains(queue)] == [SIZE]


# Row 9: total length (2.7.4)


def test_chain_when_longer_than_the_specification_allows_is_refused() -> None:
    size = 1 << 30
    with rings.started(Copier(), memory=huge_memory(size)) as driver:
        ring, queue = driver.queues[0], driver.device.runtime.queues[0]
        offer_bytes(ring, size, 4)

        assert refused(queue)


def test_chain_when_just_short_enough_is_served() -> None:
    size = 1 << 30
    with rings.started(Copier(), memory=huge_memory(size)) as driver:
        ring, queue = driver.queues[0], driver.device.runtime.queues[0]
        offer_bytes(ring, size, 3)

        assert chains(queue)[0].readable_size == 3 * size


def huge_memory(size: int) -> GuestMemory:
    return GuestMemory(
        [Region(1 << 32, size + PAGE, Anonymous(size + PAGE)), Region(0, PAGE, Anonymous(PAGE))]
    )


def offer_bytes(ring: DriverQueue, size: int, times: int) -> None:
    for i in range(times):
        ring.describe(i, 1 << 32, size, NEXT if i < times - 1 else 0, i + 1)
    ring.offer(0)


# Row 10: order and direction


def test_chain_when_readable_follows_writable_is_refused(ring: DriverQueue, queue: Queue) -> None:
    ring.describe(0, LOW, 8, WRITE | NEXT, 1)
    ring.describe(1, LOW, 8)
    ring.offer(0)

    assert refused(queue)


def test_chain_when_readable_follows_an_empty_writable_is_refused(ring: DriverQueue, queue: Queue) -> None:
    ring.describe(0, LOW, 0, WRITE | NEXT, 1)
    ring.describe(1, LOW, 8)
    ring.offer(0)

    assert refused(queue)


def test_chain_when_writable_part_is_in_rom_is_refused_and_a_readable_one_is_not(
    ring: DriverQueue, queue: Queue
) -> None:
    ring.describe(0, ROM, 8, WRITE)
    ring.offer(0)
    assert refused(queue)

    ring.describe(1, ROM, 8)
    ring.offer(1)
    assert [chain.readable_size for chain in chains(queue)] == [8]


# Row 11: addresses


@pytest.mark.parametrize("flags", [0, WRITE])
@pytest.mark.parametrize(
    ("address", "size"),
    [
        (0, 1),
        (LOW - 1, 2),
        (END - 1, 2),
        (END, 1),
        (END - 8, 0xFFFF_FFFF),
        (ROM + PAGE - 1, 2),
        ((1 << 64) - 1, 1),
        ((1 << 64) - 8, 16),
        (1 << 63, 0xFFFF_FFFF),
    ],
)
def test_chain_when_buffer_is_not_wholly_in_memory_is_refused(
    ring: DriverQueue, queue: Queue, address: int, size: int, flags: int
) -> None:
    ring.describe(0, address, size, flags)
    ring.offer(0)

    assert refused(queue)


def test_buffer_when_it_straddles_two_regions_is_served_in_both_directions(driver: FakeDriver) -> None:
    data = bytes(range(200))
    driver.memory.write(SEAM - 100, data)
    request = driver.queues[0].add_buffers(
        [(SEAM - 100, 200, 0), (SEAM - 50, 200, WRITE)], [(SEAM - 50, 200)]
    )
    driver.queues[0].kick()
    driver.run()
    driver.queues[0].collect()

    assert (request.done, driver.queues[0].data(request)) == (True, data)


# Row 12: empty descriptors


def test_chain_when_descriptors_are_empty_has_no_views_of_them(ring: DriverQueue, queue: Queue) -> None:
    for i, (size, flags) in enumerate([(0, 0), (4, 0), (0, 0), (0, WRITE), (2, WRITE), (0, WRITE)]):
        ring.describe(i, LOW, size, flags | (NEXT if i < 5 else 0), i + 1)
    ring.offer(0)

    (chain,) = chains(queue)
    assert [len(view) for view in chain.readable] == [4]
    assert [len(view) for view in chain.writable] == [2]


def test_chain_when_wholly_empty_is_served_and_given_back(driver: FakeDriver, ring: DriverQueue) -> None:
    request = ring.add_buffers([(0, 0, 0), (0, 0, WRITE)])
    ring.kick()
    driver.run()
    ring.collect()

    assert (request.done, request.written) == (True, 0)


# Row 14: indirect tables (2.7.5.3)


def table(ring: DriverQueue, descriptors: list[tuple[int, int, int, int]], at: int = LOW + 0x8000) -> None:
    for i, fields in enumerate(descriptors):
        address, length, flags, following = fields
        ring.driver.memory.write_u64(at + 16 * i, address)
        ring.driver.memory.write_u64(at + 16 * i + 8, length | flags << 32 | following << 48)


def test_indirect_when_right_is_served(ring: DriverQueue, queue: Queue) -> None:
    table(ring, [(LOW, 3, NEXT, 2), (LOW, 99, 0, 0), (LOW, 5, WRITE, 0)])
    ring.describe(0, LOW + 0x8000, 48, TABLE)
    ring.offer(0)

    (chain,) = chains(queue)
    assert (chain.readable_size, chain.writable_size) == (3, 5)


def test_indirect_when_flagged_writable_has_the_flag_ignored(ring: DriverQueue, queue: Queue) -> None:
    table(ring, [(LOW, 3, 0, 0)])
    ring.describe(0, LOW + 0x8000, 16, TABLE | WRITE)
    ring.offer(0)

    assert chains(queue)[0].readable_size == 3


def test_indirect_when_it_ends_a_chain_of_others_is_served(ring: DriverQueue, queue: Queue) -> None:
    table(ring, [(LOW, 3, NEXT, 1), (LOW, 5, WRITE, 0)])
    ring.describe(0, LOW, 2, NEXT, 1)
    ring.describe(1, LOW + 0x8000, 32, TABLE)
    ring.offer(0)

    (chain,) = chains(queue)
    assert (chain.readable_size, chain.writable_size) == (5, 5)


def test_indirect_when_table_straddles_two_regions_is_served(ring: DriverQueue, queue: Queue) -> None:
    for at in (SEAM - 16, SEAM - 8):
        table(ring, [(LOW, 3, NEXT, 1), (LOW, 5, WRITE, 0)], at)
        ring.describe(0, at, 32, TABLE)
        ring.offer(0)

        (chain,) = chains(queue)
        assert (chain.readable_size, chain.writable_size) == (3, 5)


@pytest.mark.parametrize("size", [0, 1, 15, 17, 31, 16 * SIZE + 16, 0xFFFF_FFF0, 0xFFFF_FFFF])
def test_indirect_when_table_has_a_wrong_length_is_refused(
    ring: DriverQueue, queue: Queue, size: int
) -> None:
    table(ring, [(LOW, 3, 0, 0)])
    ring.describe(0, LOW + 0x8000, size, TABLE)
    ring.offer(0)

    assert refused(queue)


@pytest.mark.parametrize("address", [0, END - 8, END, (1 << 64) - 16], ids=hex)
def test_indirect_when_table_is_outside_memory_is_refused(
    ring: DriverQueue, queue: Queue, address: int
) -> None:
    ring.describe(0, address, 16, TABLE)
    ring.offer(0)

    assert refused(queue)


def test_indirect_when_longer_than_a_queue_made_smaller_is_served_up_to_the_size_offered() -> None:
    # Against 2.7.5.3.1; but Linux's virtio-blk does it where QEMU halved the queue, and would lose writes.
    with rings.started(Copier(), queue_size=4) as driver:
        ring, queue = driver.queues[0], driver.device.runtime.queues[0]
        memory = driver.memory.regions[0].gpa + (32 << 20)
        for count, served in ((SIZE, 1), (SIZE + 1, 0)):
            table(ring, [(memory, 1, NEXT if i < count - 1 else 0, i + 1) for i in range(count)], memory)
            ring.describe(0, memory, 16 * count, TABLE)
            ring.offer(0)

            assert len(chains(queue)) == served


def test_indirect_when_nested_is_refused(ring: DriverQueue, queue: Queue) -> None:
    table(ring, [(LOW + 0x8000, 16, TABLE, 0)])
    ring.describe(0, LOW + 0x8000, 16, TABLE)
    ring.offer(0)

    assert refused(queue)


def test_indirect_when_next_is_set_beside_is_refused(ring: DriverQueue, queue: Queue) -> None:
    table(ring, [(LOW, 3, 0, 0)])
    ring.describe(0, LOW + 0x8000, 16, TABLE | NEXT, 1)
    ring.describe(1, LOW, 1)
    ring.offer(0)

    assert refused(queue)


def test_indirect_when_its_chain_loops_or_leaves_the_table_is_refused(
    ring: DriverQueue, queue: Queue
) -> None:
    for descriptors in ([(LOW, 1, NEXT, 1), (LOW, 1, NEXT, 0)], [(LOW, 1, NEXT, 2), (LOW, 1, 0, 0)]):
        table(ring, descriptors)
        ring.describe(0, LOW + 0x8000, 32, TABLE)
        ring.offer(0)

        assert refused(queue)


def test_indirect_when_not_negotiated_is_refused() -> None:
    with rings.started(Copier(), PLAIN) as driver:
        ring = driver.queues[0]
        ring.add([b"data"], indirect=True)

        assert refused(driver.device.runtime.queues[0])


# Row 15: the event index across the wrap (2.7.10)


@pytest.mark.parametrize("features", [PLAIN, EVENTS, ALL])
def test_requests_when_indices_wrap_all_come_back_and_notifications_are_asked_for(features: int) -> None:
    device = Copier()
    with rings.started(device, features) as driver:
        start_at(driver, 65536 - 3 * SIZE)
        for n in range(6 * SIZE):
            assert driver.request(0, [b"%d" % n], [8]) == b"%d" % n

    assert len(device.seen) == 6 * SIZE


@pytest.mark.parametrize(
    ("old", "new", "event", "wanted"),
    [
        (0, 1, 0, True),
        (0, 1, 1, False),
        (5, 9, 4, False),
        (5, 9, 5, True),
        (5, 9, 8, True),
        (5, 9, 9, False),
        (65530, 4, 65529, False),
        (65530, 4, 65530, True),
        (65530, 4, 65535, True),
        (65530, 4, 0, True),
        (65530, 4, 3, True),
        (65530, 4, 4, False),
    ],
)
def test_publish_when_event_index_is_passed_wants_an_interrupt(
    memory: GuestMemory, old: int, new: int, event: int, wanted: bool
) -> None:
    queue = make(memory, EVENTS, old)
    memory.write_u16(queue.driver + 4 + 2 * SIZE, event)
    for _ in range((new - old) & 0xFFFF):
        queue.push_head(0, 0)

    assert queue.publish() is wanted
    assert memory.read_u16(queue.device + 2) == new


@pytest.mark.parametrize("at", [0, 7, 65535])
def test_arm_when_events_are_used_asks_for_the_next_chain(memory: GuestMemory, at: int) -> None:
    queue = make(memory, EVENTS, at)
    memory.write_u16(queue.driver + 2, at)

    assert queue.enable_notification() is False
    assert memory.read_u16(queue.device + 4 + 8 * SIZE) == at
    memory.write_u16(queue.driver + 2, (at + 1) & 0xFFFF)
    assert queue.enable_notification() is True


def start_at(driver: FakeDriver, index: int) -> None:
    """Both sides as if *index* requests had been done."""
    queue, ring = driver.device.runtime.queues[0], driver.queues[0]
    queue.begin_at(index)
    ring.used_idx = index
    ring.set_avail_idx(index)
    ring.kick()  # from which on the driver counts; the device finds nothing
    driver.run()
    driver.memory.write_u16(ring.used + 2, index)
    driver.memory.write_u16(ring.used + 4 + 8 * ring.size, index)
    driver.memory.write_u16(ring.avail + 4 + 2 * ring.size, index)


# Suppression by flags (2.7.7, 2.7.9)


def test_disarm_and_arm_when_events_are_not_used_set_the_flag(memory: GuestMemory) -> None:
    queue = make(memory, PLAIN)

    queue.disable_notification()
    assert memory.read_u16(queue.device) == 1
    queue.enable_notification()
    assert memory.read_u16(queue.device) == 0


def test_disarm_when_events_are_used_leaves_the_flag_zero(memory: GuestMemory) -> None:
    queue = make(memory, EVENTS)

    queue.disable_notification()

    assert memory.read_u16(queue.device) == 0


@pytest.mark.parametrize(("flags", "wanted"), [(0, True), (1, False)])
def test_publish_when_events_are_not_used_obeys_the_drivers_flag(
    memory: GuestMemory, flags: int, wanted: bool
) -> None:
    queue = make(memory, PLAIN)
    memory.write_u16(queue.driver, flags)
    queue.push_head(0, 0)

    assert queue.publish() is wanted


def test_publish_when_nothing_was_pushed_wants_no_interrupt(memory: GuestMemory) -> None:
    queue = make(memory, PLAIN)
    queue.push_head(0, 0)

    assert [queue.publish(), queue.publish()] == [True, False]


# Row 16: the guest changes what was read


def test_descriptor_when_rewritten_after_it_was_read_changes_nothing(
    driver: FakeDriver, ring: DriverQueue, queue: Queue
) -> None:
    driver.memory.write(LOW + 0x9000, b"first")
    ring.describe(0, LOW + 0x9000, 5)
    ring.offer(0)
    chain = queue.pop()
    assert chain is not None
    ring.describe(0, END, 0xFFFF_FFFF, WRITE | NEXT, 0xFFFF)
    ring.set_avail_idx(1)

    assert (chain.readable_size, chain.read(5)) == (5, b"first")


def test_descriptors_when_rewritten_all_the_time_give_chains_inside_memory_only(
    driver: FakeDriver, ring: DriverQueue, queue: Queue
) -> None:
    done = threading.Event()

    def rewrite() -> None:
        n = 0
        while not done.is_set():
            n += 1
            ring.describe(n % 4, (0, LOW, END - 4, SEAM - 2)[n % 4], (1, 8, 1 << 31)[n % 3], n % 8, n % 20)

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        for n in range(5000):
            ring.offer(n % 4)
            chain = queue.pop()
            if chain is not None:
                assert chain.readable_size + chain.writable_size <= 2 * SIZE * (END - LOW)
                queue.push(chain, 0)
            queue.publish()
            queue.begin_turn()
    finally:
        done.set()
        thread.join()
    assert queue.in_flight == 0


# Row 26: the used ring


def test_bad_chains_when_good_ones_follow_go_back_and_the_good_ones_are_served(
    driver: FakeDriver, ring: DriverQueue, queue: Queue
) -> None:
    bad = [ring.add_buffers([(END, 8, 0)]) for _ in range(3)]
    good = ring.add([b"good"], [8])
    ring.kick()
    driver.run()
    ring.collect()

    assert [(request.done, request.written) for request in [*bad, good]] == [(True, 0)] * 3 + [(True, 4)]
    assert queue.bad_chains == 3


def test_bad_chains_when_a_full_queue_of_them_came_leave_the_device_running(
    driver: FakeDriver, ring: DriverQueue
) -> None:
    for _ in range(3):
        bad = [ring.add_buffers([(END, 8, 0)]) for _ in range(SIZE)]
        ring.kick()
        driver.run()
        ring.collect()
        assert all(request.done for request in bad)

    assert driver.request(0, [b"good"], [8]) == b"good"


def test_pop_when_bad_chains_never_end_gives_up_and_the_queue_is_run_again(
    driver: FakeDriver, ring: DriverQueue, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_head = Queue.push_head
    more = iter(range(10 * SIZE))

    def endless(self: Queue, head: int, written: int) -> None:
        push_head(self, head, written)
        if next(more, None) is not None:
            ring.offer(0)  # the guest's other processor is as fast as we are

    monkeypatch.setattr(Queue, "push_head", endless)
    ring.describe(0, END, 8)
    ring.offer(0)

    assert queue.pop() is None
    assert (queue.bad_chains, queue.exhausted, queue.enable_notification()) == (SIZE, True, False)
    ring.kick()
    driver.run()
    assert queue.bad_chains == 10 * SIZE + 1
    assert not queue.exhausted


def test_bad_chains_when_there_are_thousands_are_told_of_a_few_times(
    driver: FakeDriver, ring: DriverQueue, capfd: pytest.CaptureFixture[str]
) -> None:
    ring.describe(0, END, 8)
    for _ in range(2000):
        ring.offer(0)
        ring.driver.write(0x50, 4, 0)
        driver.run()

    assert count(capfd, "was refused") <= 6


def test_push_when_published_shows_heads_and_lengths_in_order(memory: GuestMemory) -> None:
    queue = make(memory, PLAIN)
    for head, written in ((3, 7), (1, 0), (15, 0xFFFF_FFFF)):
        queue.push(Chain(head, [], []), written)

    assert memory.read_u16(queue.device + 2) == 0
    queue.publish()

    assert memory.read_u16(queue.device + 2) == 3
    elements = [memory.read_u64(queue.device + 4 + 8 * n) for n in range(3)]
    assert elements == [3 | 7 << 32, 1, 15 | 0xFFFF_FFFF << 32]


# State


def test_load_when_saved_in_the_middle_goes_on_where_it_was(driver: FakeDriver) -> None:
    driver.request(0, [b"before"], [8])
    queue, ring = driver.device.runtime.queues[0], driver.queues[0]
    ring.add([b"after"], [8])
    state = persist.save(queue)

    other = Queue(0, SIZE)
    persist.load(other, state)
    other.activate(driver.memory, ALL)

    (chain,) = chains(other)
    assert chain.read(5) == b"after"
    assert persist.save(other) == persist.save(queue) | {"next_avail": 2}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 2}, "has version 2, and this pyvmm reads 1"),
        ({"version": None}, "has version None"),
        ({"size": -1}, "the saved size is -1"),
        ({"desc": 1 << 64}, "the saved desc is"),
        ({"ready": "yes"}, "the saved ready is 'yes'"),
        ({"next_avail": 65536}, "the saved next_avail is 65536"),
        ({"next_used": None}, "the saved next_used is None"),
        ({"next_avail": 100}, "100 chains in flight"),
    ],
)
def test_load_when_state_cannot_be_is_refused_in_one_sentence(
    memory: GuestMemory, change: dict[str, object], sentence: str
) -> None:
    state = persist.save(make(memory)) | change

    with pytest.raises(StateError, match=sentence):
        persist.load(Queue(0, SIZE), state)
