"""Random tables, rings and register writes against plain models of the specification."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyvmm.memory.guest import GuestMemory
from pyvmm.testing import FakeDriver
from pyvmm.virtio import features as f
from pyvmm.virtio.errors import QueueError
from pyvmm.virtio.ring.queue import Queue
from pyvmm.virtio.transport import mmio
from tests.support.rings import END, INDIRECT, LOW, PAGE, PLAIN, ROM, SEAM, Copier, Pair, two_regions

SIZE = 8
#: A descriptor as the specification has it: address, length, flags, next.
Descriptor = tuple[int, int, int, int]
NEXT, WRITE, TABLE = 1, 2, 4
#: Where the model's indirect table lies, across the seam.
TABLE_AT = SEAM - 32

ADDRESSES = st.one_of(
    st.sampled_from([LOW, SEAM - 1, SEAM, END - 1, END, ROM, ROM + PAGE - 1, 0, TABLE_AT, (1 << 64) - 1]),
    st.integers(LOW, END + 16),
)
LENGTHS = st.one_of(
    st.sampled_from([0, 1, 2, 16, 48, PAGE, PAGE + 1, 0xFFFF_FFFF]),
    st.integers(0, 300),
    st.integers(0, 1 << 19),
)
#: Flags as they mostly are, and any.
FLAGS = st.one_of(st.sampled_from([0, NEXT, NEXT, WRITE, WRITE | NEXT, TABLE]), st.integers(0, 0xFFFF))
TABLES = st.lists(st.tuples(ADDRESSES, LENGTHS, FLAGS, st.integers(0, SIZE)), min_size=SIZE, max_size=SIZE)
RING = st.lists(st.integers(0, SIZE), min_size=1, max_size=SIZE)


def inside(address: int, length: int, write: bool) -> bool:
    """Whether every byte is memory that may be used so."""
    ranges = [(LOW, END)] if write else [(LOW, END), (ROM, ROM + PAGE)]
    return any(low <= address and address + length <= high for low, high in ranges)


def walked(
    table: list[Descriptor], inner: list[Descriptor], head: int, indirect: bool
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]] | None:
    """(address, length) of what may be read and written (2.7.5, 2.7.13); None for a chain to be refused."""
    readable: list[tuple[int, int]] = []
    writable: list[tuple[int, int]] = []
    at, seen, now, in_table = head, 0, table, False
    wrote = False
    while True:
        address, length, flags, following = now[at]
        if flags & TABLE:
            if in_table or not indirect or flags & NEXT:
                return None
            if length % 16 or not 1 <= length // 16 <= SIZE or not inside(address, length, False):
                return None
            if address != TABLE_AT:
                return None  # of which the model knows nothing: see the caller
            now, in_table, at, seen = inner[: length // 16], True, 0, 0
            continue
        seen += 1
        write = bool(flags & WRITE)
        if wrote and not write:
            return None
        wrote = wrote or write
        if length:
            if not inside(address, length, write):
                return None
            (writable if write else readable).append((address, length))
        if not flags & NEXT:
            return readable, writable
        if seen >= len(now) or following >= len(now):
            return None
        at = following


def laid_out(
    memory: GuestMemory,
    table: list[Descriptor],
    inner: list[Descriptor],
    ring: list[int],
    indirect: bool,
    start: int,
) -> tuple[Queue, list[Descriptor]]:
    """A queue at position *start* whose driver made *ring* available, and the table that it has."""
    # An indirect table elsewhere would hold whatever lies there: put all of them to the one place.
    table = [
        (TABLE_AT if flags & TABLE and inside(address, length, False) else address, length, flags, following)
        for address, length, flags, following in table
    ]
    rings_at = LOW + 0x1000
    for i in range(SIZE):
        for base, one in ((rings_at, table[i]), (TABLE_AT, inner[i])):
            memory.write_u64(base + 16 * i, one[0])
            memory.write_u64(base + 16 * i + 8, one[1] | one[2] << 32 | one[3] << 48)
    queue = Queue(0, SIZE)
    queue.desc, queue.driver, queue.device, queue.ready = rings_at, rings_at + 0x100, rings_at + 0x200, True
    queue.begin_at(start)
    queue.activate(memory, INDIRECT if indirect else PLAIN)
    for i, head in enumerate(ring):
        memory.write_u16(queue.driver + 4 + 2 * ((start + i) % SIZE), head)
    memory.write_u16(queue.driver + 2, (start + len(ring)) & 0xFFFF)
    memory.write_u16(queue.device + 2, start)
    return queue, table


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(table=TABLES, inner=TABLES, ring=RING, indirect=st.booleans(), start=st.sampled_from([0, 7, 65533]))
def test_queue_when_table_and_ring_are_random_serves_and_refuses_what_the_model_does(
    table: list[Descriptor], inner: list[Descriptor], ring: list[int], indirect: bool, start: int
) -> None:
    memory = two_regions()
    queue, table = laid_out(memory, table, inner, ring, indirect, start)

    got = []
    broken = False
    try:
        while (chain := queue.pop()) is not None:
            got.append((chain.head, sizes(chain.readable), sizes(chain.writable)))
            queue.push(chain, 0)
    except QueueError:
        broken = True

    want, valid = [], []
    for head in ring:
        if head >= SIZE:
            break
        valid.append(head)
        found = walked(table, inner, head, indirect)
        if found is not None:
            want.append((head, total(found[0]), total(found[1])))
    assert broken == (len(valid) < len(ring))
    assert [(head, sum(read), sum(written)) for head, read, written in got] == want
    assert queue.bad_chains == len(valid) - len(want)
    queue.publish()
    used = [memory.read_u32(queue.device + 4 + 8 * ((start + i) % SIZE)) for i in range(len(valid))]
    assert used == valid
    assert memory.read_u16(queue.device + 2) == (start + len(valid)) & 0xFFFF
    memory.close()


#: What tells each place in RAM from all others.
NOISE = Random(1).randbytes(END - LOW)
#: Receive buffers as drivers have them: one behind the other, across the seam, out of memory; and others.
ROOM = st.lists(
    st.one_of(
        st.tuples(
            st.one_of(st.integers(0, 10).map(lambda at: SEAM + PAGE * (at - 2)), ADDRESSES),
            st.sampled_from([PAGE, PAGE, 300, 0]),
            st.sampled_from([WRITE, WRITE, WRITE, WRITE | NEXT, 0]),
            st.integers(0, SIZE),
        ),
        st.tuples(ADDRESSES, LENGTHS, FLAGS, st.integers(0, SIZE)),
    ),
    min_size=SIZE,
    max_size=SIZE,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    table=ROOM,
    inner=TABLES,
    ring=RING,
    start=st.sampled_from([0, 5, 65533]),
    want=st.one_of(st.integers(1, 8 * PAGE), st.just(1 << 40)),
)
def test_pop_room_when_table_and_ring_are_random_takes_what_the_model_does(
    table: list[Descriptor], inner: list[Descriptor], ring: list[int], start: int, want: int
) -> None:
    memory = two_regions()
    memory.write(LOW, NOISE)
    queue, table = laid_out(memory, table, inner, ring, True, start)

    heads: list[int] = []
    lengths: list[int] = []
    views: list[memoryview] = []
    broken = False
    try:
        got = queue.pop_writable(want, heads, lengths, views)
    except QueueError:
        broken, got = True, sum(lengths)

    taken: list[tuple[int, int]] = []
    refused: list[int] = []
    parts: list[tuple[int, int]] = []
    beyond = False
    for head in ring:
        if total(parts) >= want:
            break
        if head >= SIZE:
            beyond = True
            break
        found = walked(table, inner, head, True)
        if found is None or found[0] or not found[1]:
            refused.append(head)
        else:
            parts += found[1]
            taken.append((head, total(found[1])))
    assert broken == beyond
    assert list(zip(heads, lengths, strict=True)) == taken
    assert got == total(parts)
    assert b"".join(views) == b"".join(memory.read(address, length) for address, length in parts)
    assert queue.bad_chains == len(refused)
    queue.publish()
    used = [memory.read_u32(queue.device + 4 + 8 * ((start + i) % SIZE)) for i in range(len(refused))]
    assert used == refused
    memory.close()


def sizes(views: list[memoryview]) -> list[int]:
    assert all(view.nbytes for view in views)
    return [view.nbytes for view in views]


def total(parts: list[tuple[int, int]]) -> int:
    return sum(length for _, length in parts)


# The status machine


@dataclass
class Model:
    """What section 3.1.1 says of Status, and 2.2 of features."""

    status: int = 0
    accepted: dict[int, int] = field(default_factory=dict)

    def write(self, value: int, offered: int, starts: bool) -> None:
        if value == 0:
            self.status, self.accepted = 0, {}
            return
        new = value & ~self.status
        if new & f.ACKNOWLEDGE:
            self.status |= f.ACKNOWLEDGE
        if new & f.DRIVER and self.status & f.ACKNOWLEDGE:
            self.status |= f.DRIVER
        if new & f.FEATURES_OK and self.status & 3 == 3:
            words = self.accepted
            accepted = words.get(0, 0) | words.get(1, 0) << 32
            beyond = any(word for sel, word in words.items() if sel > 1)
            if not beyond and not accepted & ~offered and accepted & f.F_VERSION_1:
                self.status |= f.FEATURES_OK
        if new & f.DRIVER_OK and self.status & 11 == 11:
            self.status |= f.DRIVER_OK | (0 if starts else f.DEVICE_NEEDS_RESET)
        self.status |= new & f.FAILED


class Registers(RuleBasedStateMachine):
    """Any writes in any order: nothing raises, and Status is the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = FakeDriver(Pair(), memory=two_regions(), start=False)
        self.model = Model()
        self.select = 0
        self.sel = 0

    def teardown(self) -> None:
        self.driver.close()
        self.driver.memory.close()

    @rule(value=st.one_of(st.sampled_from([0, 1, 3, 11, 15, 128, 64]), st.integers(0, 0xFFFF_FFFF)))
    def status(self, value: int) -> None:
        starts = all(not queue.ready or self._good(queue) for queue in self.driver.device.runtime.queues)
        before = self.model.status
        self.driver.write(mmio.STATUS, 4, value)
        self.model.write(value, self.driver.device.offered_features, starts)
        if value == 0:
            self.select = self.sel = 0
        if before & ~self.model.status:
            assert self.model.status == 0

    @rule(word=st.sampled_from([0, 1, 2]), value=st.sampled_from([0, 1, 1 << 28, 1 << 29, 3 << 28, 2]))
    def accept(self, word: int, value: int) -> None:
        self.driver.write(mmio.DRIVER_FEATURES_SEL, 4, word)
        self.driver.write(mmio.DRIVER_FEATURES, 4, value)
        if not self.model.status & f.FEATURES_OK:
            self.model.accepted[word] = value

    @rule(value=st.sampled_from([0, 1, 2, 0xFFFF_FFFF]))
    def select_queue(self, value: int) -> None:
        self.driver.write(mmio.QUEUE_SEL, 4, value)
        self.select = value

    @rule(
        size=st.sampled_from([0, 1, 3, 4, 8, 16, 32]),
        desc=st.sampled_from([LOW, LOW + 8, SEAM - 16, END]),
        ready=st.integers(0, 3),
    )
    def set_up(self, size: int, desc: int, ready: int) -> None:
        driver = self.driver
        driver.write(mmio.QUEUE_SIZE, 4, size)
        for low, address in (
            (mmio.QUEUE_DESC_LOW, desc),
            (mmio.QUEUE_DRIVER_LOW, LOW + 0x2000),
            (mmio.QUEUE_DEVICE_LOW, LOW + 0x3000),
        ):
            driver.write(low, 4, address & 0xFFFF_FFFF)
            driver.write(low + 4, 4, address >> 32)
        driver.write(mmio.QUEUE_READY, 4, ready)
        queues = driver.device.runtime.queues
        if self.select < len(queues) and not self.model.status & f.DRIVER_OK:
            assert queues[self.select].ready == bool(ready & 1)

    @rule(
        offset=st.integers(0, mmio.SIZE - 8),
        size=st.sampled_from([1, 2, 4, 8]),
        value=st.integers(0, (1 << 64) - 1),
    )
    def anything_else(self, offset: int, size: int, value: int) -> None:
        if size == 4 and mmio.DRIVER_FEATURES <= offset < mmio.CONFIG:
            assert 0 <= self.driver.read(offset, size) < 1 << 32  # what the other rules write
            return
        self.driver.write(offset, size, value & (1 << 8 * size) - 1)
        assert 0 <= self.driver.read(offset, size) < 1 << 8 * size

    @rule(queue=st.integers(0, 3))
    def kick(self, queue: int) -> None:
        self.driver.write(mmio.QUEUE_NOTIFY, 4, queue)
        self.driver.run()

    @invariant()
    def the_same(self) -> None:
        device, status = self.driver.device, self.driver.status
        assert status == self.model.status
        assert device.runtime.active == (status & (f.DRIVER_OK | f.DEVICE_NEEDS_RESET) == f.DRIVER_OK)
        if device.runtime.active:
            assert not device.runtime.driver_features & ~device.offered_features
            assert device.runtime.driver_features & f.F_VERSION_1

    def _good(self, queue: Queue) -> bool:
        power = queue.size in (1, 2, 4, 8, 16) and queue.size <= queue.max_size
        return power and not queue.desc % 16 and inside(queue.desc, 16 * queue.size, False)


Registers.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRegisters = Registers.TestCase


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(0, 400), min_size=1, max_size=8), min_size=1, max_size=30),
    events=st.booleans(),
    indirect=st.booleans(),
)
def test_requests_when_of_any_sizes_in_any_batches_come_back_whole_and_in_order(
    batches: list[list[int]], events: bool, indirect: bool
) -> None:
    features = PLAIN | (f.F_EVENT_IDX if events else 0) | (f.F_INDIRECT_DESC if indirect else 0)
    memory = two_regions()
    with FakeDriver(Copier(), memory=memory, features=features) as driver:
        ring = driver.queues[0]
        count = 0
        for batch in batches:
            sent = []
            for size in batch:
                count += 1
                data = count.to_bytes(4, "little") * (size // 4)
                sent.append((ring.add([data], [size], indirect=indirect), data))
            ring.kick()
            driver.run()
            assert ring.collect() == [request for request, _ in sent]
            assert [ring.data(request) for request, _ in sent] == [data for _, data in sent]
    memory.close()
