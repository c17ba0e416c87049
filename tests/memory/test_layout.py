"""Parts around the gap."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.memory.errors import HostMemoryError, MemoryConfigError
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import PAGE_SIZE, PHYSICAL_LIMIT, Anonymous, HostMemory, Memfd
from pyvmm.memory.layout import Part, assemble, carve, spans

GAP = (0xC000_0000, 0x1_0000_0000)
M = 1 << 20
G = 1 << 30


def placed(sizes: list[int], gap: tuple[int, int] = GAP) -> list[tuple[int, int, int, int]]:
    return [(span.part, span.offset, span.gpa, span.size) for span in spans(sizes, *gap)]


def test_spans_when_all_fits_below_the_gap_are_adjacent() -> None:
    assert placed([128 * M, 128 * M]) == [(0, 0, 0, 128 * M), (1, 0, 128 * M, 128 * M)]


def test_spans_when_a_part_straddles_the_gap_split_it() -> None:
    assert placed([2 * G, 2 * G]) == [(0, 0, 0, 2 * G), (1, 0, 2 * G, G), (1, G, 4 * G, G)]


def test_spans_when_a_part_ends_at_the_gap_go_on_behind_it() -> None:
    assert placed([3 * G, M]) == [(0, 0, 0, 3 * G), (1, 0, 4 * G, M)]


def test_spans_when_the_gap_is_at_zero_begin_behind_it() -> None:
    assert placed([2 * G], (0, G)) == [(0, 0, G, 2 * G)]


def test_spans_when_there_is_no_gap_are_contiguous() -> None:
    assert placed([2 * G, G], (0, 0)) == [(0, 0, 0, 2 * G), (1, 0, 2 * G, G)]


@pytest.mark.parametrize(
    "gap",
    [(1, PAGE_SIZE), (PAGE_SIZE, 1), (2 * PAGE_SIZE, PAGE_SIZE), (-PAGE_SIZE, 0), (0, PHYSICAL_LIMIT * 2)],
)
def test_spans_when_the_gap_is_wrong_are_refused(gap: tuple[int, int]) -> None:
    with pytest.raises(MemoryConfigError, match=r"the gap from .* is wrong"):
        spans([M], *gap)


def test_spans_when_memory_does_not_fit_the_address_space_are_refused() -> None:
    with pytest.raises(MemoryConfigError, match="do not fit below"):
        spans([PHYSICAL_LIMIT], *GAP)


@pytest.mark.parametrize("size", [0, -M, 100])
def test_spans_when_a_size_is_wrong_are_refused(size: int) -> None:
    with pytest.raises(MemoryConfigError, match="not usable"):
        spans([M, size], *GAP)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.integers(0, 60),
    st.integers(0, 30),
)
def test_spans_cover_every_part_once_in_order_and_miss_the_gap(
    pages: list[int], gap_page: int, gap_pages: int
) -> None:
    gap_start, gap_end = gap_page * PAGE_SIZE, (gap_page + gap_pages) * PAGE_SIZE
    sizes = [count * PAGE_SIZE for count in pages]

    found = spans(sizes, gap_start, gap_end)

    # In guest-physical order, the pieces are the parts' bytes one after the other...
    assert [
        (span.part, offset)
        for span in found
        for offset in range(span.offset, span.offset + span.size, PAGE_SIZE)
    ] == [(part, offset) for part, size in enumerate(sizes) for offset in range(0, size, PAGE_SIZE)]
    # ...at the lowest addresses that are not in the gap.
    addresses = [gpa for span in found for gpa in range(span.gpa, span.gpa + span.size, PAGE_SIZE)]
    free = (gpa for gpa in range(0, 10**9, PAGE_SIZE) if not gap_start <= gpa < gap_end)
    assert addresses == [next(free) for _ in addresses]


def test_assemble_when_given_a_size_makes_one_anonymous_part() -> None:
    regions = assemble(4 * G, *GAP)

    assert [(region.gpa, region.size, region.offset) for region in regions] == [
        (0, 3 * G, 0),
        (4 * G, G, 3 * G),
    ]
    assert regions[0].host is regions[1].host
    assert isinstance(regions[0].host, Anonymous)
    GuestMemory(regions).close()


def test_assemble_when_given_parts_makes_one_contiguous_map() -> None:
    memory = GuestMemory(assemble([Part(128 * M, Anonymous), Part(128 * M, Memfd, "shared")], *GAP))

    memory.write(128 * M - 2, b"seam")

    assert memory.contains(0, 256 * M)
    assert memory.regions[1].name == "shared"
    assert bytes(memory.regions[1].host.buffer[:2]) == b"am"
    memory.close()


def test_assemble_when_larger_than_the_hosts_ram_is_made() -> None:
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
        pytest.skip("this host forbids overcommit (vm.overcommit_memory=2)")
    ram = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
    size = (ram // G + 8) * G

    memory = GuestMemory(assemble(size, *GAP))

    assert memory.size == size
    assert memory.regions[-1].end == size + G
    memory.close()


def test_assemble_when_a_part_fails_closes_those_before_it() -> None:
    made: list[HostMemory] = []

    def record(size: int) -> HostMemory:
        made.append(Memfd(size))
        return made[-1]

    def fail(size: int) -> HostMemory:
        raise HostMemoryError("none left")

    with pytest.raises(HostMemoryError, match="none left"):
        assemble([Part(M, record), Part(M, record), Part(M, fail)], *GAP)

    assert [host.fd for host in made] == [-1, -1]


def test_assemble_when_a_maker_gives_too_little_is_refused_and_closed() -> None:
    made: list[HostMemory] = []

    def short(size: int) -> HostMemory:
        made.append(Memfd(size // 2))
        return made[-1]

    with pytest.raises(MemoryConfigError, match=r"'small'.*more than its memfd memory"):
        assemble([Part(M, short, "small")], *GAP)

    assert made[0].fd == -1


def test_assemble_when_there_is_no_part_is_refused() -> None:
    with pytest.raises(MemoryConfigError, match="has no memory"):
        assemble([], *GAP)


def test_carve_leaves_a_hole_and_the_same_host_memory_around_it() -> None:
    host = Anonymous(0x8000)
    regions = [Region(0, 0x4000, host), Region(0x4000, 0x4000, host, 0x4000)]

    left = carve(regions, 0x2000, 0x5000)

    assert [(r.gpa, r.size, r.offset) for r in left] == [(0, 0x2000, 0), (0x5000, 0x3000, 0x5000)]


def test_carve_inside_one_region_leaves_both_its_ends() -> None:
    left = carve([Region(0x10000, 0x4000, Anonymous(0x4000))], 0x11000, 0x12000)

    assert [(r.gpa, r.size, r.offset) for r in left] == [(0x10000, 0x1000, 0), (0x12000, 0x2000, 0x2000)]


def test_carve_beside_everything_changes_nothing() -> None:
    region = Region(0x10000, 0x4000, Anonymous(0x4000))

    assert [(r.gpa, r.size) for r in carve([region], 0, 0x10000)] == [(0x10000, 0x4000)]
