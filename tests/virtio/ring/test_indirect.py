"""Chains of many buffers, swept in one go: the same as walked one by one, whatever the table says."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyvmm.backends.disk.raw import RawDisk
from pyvmm.memory.errors import GuestMemoryError
from pyvmm.memory.guest import GuestMemory
from pyvmm.memory.host import address_of
from pyvmm.testing import FakeDriver
from pyvmm.virtio.block.device import Block
from pyvmm.virtio.block.request import BlockRequest
from pyvmm.virtio.errors import ChainError
from pyvmm.virtio.ring.indirect import IndirectChain
from pyvmm.virtio.ring.queue import Queue
from tests.support.rings import END, INDIRECT, LOW, PAGE, ROM, SEAM, two_regions

NEXT, WRITE = 1, 2
TABLE_AT = LOW + 0x8000
#: A place outside the region in which nearly every buffer lies, or at its edges.
EDGES = [LOW - 1, SEAM - 1, SEAM, END - 1, END, ROM, 0, 1 << 63, (1 << 64) - 1, (1 << 64) - PAGE]

Descriptor = tuple[int, int, int, int]


def made(buffers: list[tuple[int, int]], filled: bool) -> list[Descriptor]:
    """A table as Linux's block driver makes it: a header, *buffers*, a status."""
    way = WRITE if filled else 0
    middle = [(address, size, NEXT | way, at + 2) for at, (address, size) in enumerate(buffers)]
    return [(LOW, 16, NEXT, 1), *middle, (LOW + 32, 1, WRITE, 0)]


def queues(memory: GuestMemory) -> tuple[Queue, Queue]:
    """One that sweeps and one that does not, with a descriptor 0 to be pointed at the table."""
    found = []
    for indirect_vectors in (True, False):
        queue = Queue(0, 256)
        queue.indirect_vectors = indirect_vectors
        queue.desc, queue.driver, queue.device = LOW + 0x2000, LOW + 0x4000, LOW + 0x5000
        queue.ready = True
        queue.activate(memory, INDIRECT)
        found.append(queue)
    return found[0], found[1]


def parts(queue: Queue) -> object:
    """Where the buffers of the chain at head 0 are, or what refuses it."""
    try:
        chain = queue.walk(0)
    except (ChainError, GuestMemoryError) as error:
        return type(error)
    return [[(address_of(view), len(view)) for view in views] for views in (chain.readable, chain.writable)]


def lay(memory: GuestMemory, table: list[Descriptor]) -> None:
    memory.write(TABLE_AT, b"".join(struct.pack("<QIHH", *descriptor) for descriptor in table))
    memory.write(LOW + 0x2000, struct.pack("<QIHH", TABLE_AT, 16 * len(table), 4, 0))


BUFFERS = st.lists(st.tuples(st.integers(LOW, SEAM - PAGE), st.integers(0, PAGE)), min_size=8, max_size=40)
#: What a guest does to a table that was right: a field of a descriptor gets another value.
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 41),
        st.one_of(
            st.tuples(st.just(0), st.one_of(st.sampled_from(EDGES), st.integers(0, (1 << 64) - 1))),
            st.tuples(st.just(1), st.one_of(st.sampled_from([0, 1, 0xFFFF_FFFF]), st.integers(0, END))),
            st.tuples(st.just(2), st.integers(0, 0xFFFF)),
            st.tuples(st.just(3), st.integers(0, 0xFFFF)),
        ),
    ),
    max_size=3,
)


@settings(max_examples=600, deadline=None)
@given(BUFFERS, st.booleans(), CHANGES)
@example([(SEAM - PAGE, PAGE)] * 8, True, [])
@example([(LOW, PAGE)] * 8, False, [(1, (0, SEAM - PAGE + 1))])
@example([(LOW, 0)] * 8, True, [])
@example([(LOW, PAGE)] * 8, True, [(3, (0, LOW - 1))])
@example([(LOW, PAGE)] * 8, True, [(3, (0, (1 << 64) - 1)), (4, (1, 0xFFFF_FFFF))])
def test_a_swept_chain_is_the_walked_one_whatever_the_table_says(
    buffers: list[tuple[int, int]], filled: bool, changes: list[tuple[int, tuple[int, int]]]
) -> None:
    memory = two_regions()
    right = made(buffers, filled)
    table = list(right)
    for at, (field, value) in changes:
        descriptor = list(table[at % len(table)])
        descriptor[field] = value
        table[at % len(table)] = (descriptor[0], descriptor[1], descriptor[2], descriptor[3])
    swept, walked = queues(memory)

    for one in (right, table, table):  # after one that was right, and again: some come from memory
        lay(memory, one)
        assert parts(swept) == parts(walked)
    memory.close()


def test_a_table_of_buffers_seen_before_has_its_own_header_and_status() -> None:
    memory = two_regions()
    swept, walked = queues(memory)
    table = made([(LOW + 0x10000, PAGE)] * 16, True)
    lay(memory, table)
    vector = swept.walk(0).vector  # type: ignore[attr-defined]
    lay(memory, [(LOW + 64, 16, NEXT, 1), *table[1:-1], (LOW + 96, 1, WRITE, 0)])

    assert swept.walk(0).vector is vector  # type: ignore[attr-defined]
    assert parts(swept) == parts(walked)


def test_buffers_of_more_tables_than_are_kept_are_still_those_of_each() -> None:
    memory = two_regions()
    swept, walked = queues(memory)
    for number in (*range(200), *range(200)):
        lay(memory, made([(LOW + 0x10000 + number, PAGE)] * 16, True))
        assert parts(swept) == parts(walked)


@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("count", [8, 64, 254])
def test_a_table_as_linux_makes_it_is_swept(count: int, filled: bool) -> None:
    memory = two_regions()
    lay(memory, made([(LOW + 0x10000 + 16 * at, at) for at in range(count)], filled))
    chain = queues(memory)[0].walk(0)

    assert type(chain) is IndirectChain
    assert (chain.filled, len(chain.vector), chain.vector.size) == (filled, count, count * (count - 1) // 2)
    for kind in (0, 1):  # IN and OUT
        memory.write(LOW, struct.pack("<IIQ", kind, 0, 5))
        request = BlockRequest(chain)
        assert (request.kind, request.sector) == (kind, 5)
        # What goes the wrong way is no data.
        assert (request.data is chain.vector) == (filled == (kind == 0))
        assert request.size == (chain.vector.size if filled == (kind == 0) else 0)


def test_what_the_guest_changes_later_does_not_change_the_chain() -> None:
    memory = two_regions()
    lay(memory, made([(LOW + 0x10000, 16)] * 8, True))
    chain = queues(memory)[0].walk(0)
    before = [address_of(view) for view in chain.writable]
    lay(memory, made([(END, 16)] * 8, True))

    assert [address_of(view) for view in chain.writable] == before


def test_a_chain_beyond_4_gib_is_refused_as_any() -> None:
    memory = two_regions()
    size = SEAM - LOW
    count = (1 << 32) // size
    swept, walked = queues(memory)
    swept.max_size = walked.max_size = swept.size = walked.size = 32768
    table = made([(LOW, size)] * count, True)
    memory.write(LOW + 0x20000, b"".join(struct.pack("<QIHH", *descriptor) for descriptor in table))
    memory.write(LOW + 0x2000, struct.pack("<QIHH", LOW + 0x20000, 16 * len(table), 4, 0))

    assert parts(swept) == parts(walked) == ChainError
    memory.close()


@pytest.mark.parametrize("neighbours", [1, 3])
def test_many_buffers_go_to_the_disk_and_come_back(tmp_path: Path, neighbours: int) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(4 << 20))
    size, count = 4096, 40
    with FakeDriver(Block(RawDisk(str(path)))) as driver:
        ring, memory = driver.queues[0], driver.memory
        data = [[os.urandom(size) for _ in range(count)] for _ in range(neighbours)]
        places = [[driver.allocate(size, size) for _ in range(count)] for _ in range(neighbours)]
        statuses = []
        for kind, way in ((1, 0), (0, WRITE)):
            for number in range(neighbours):
                sector = 512 + number * count * size // 512
                for address, piece in zip(places[number], data[number], strict=True):
                    memory.write(address, piece if kind else bytes(size))
                header, status = driver.allocate(16), driver.allocate(1)
                statuses.append(status)
                memory.write(header, struct.pack("<IIQ", kind, 0, sector))
                memory.write(status, b"\xff")
                buffers = [(header, 16, 0), *((at, size, way) for at in places[number]), (status, 1, WRITE)]
                ring.add_buffers(buffers, indirect=True)
            driver.device.runtime.run_queue(0)
            assert len(ring.collect()) == neighbours
            start = 512 * 512
            written = b"".join(piece for request in data for piece in request)
            assert path.read_bytes()[start : start + len(written)] == written
        assert [memory.read(status, 1) for status in statuses] == [b"\0"] * len(statuses)
        for number in range(neighbours):
            assert [memory.read(at, size) for at in places[number]] == data[number]
