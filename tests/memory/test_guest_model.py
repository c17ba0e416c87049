"""The accessor against a model: a dictionary of bytes by address."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.memory.errors import GuestMemoryError
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import PAGE_SIZE, Anonymous

# Two host objects for every example: making them anew would cost more than the test.
HOSTS = (Anonymous(16 * PAGE_SIZE), Anonymous(16 * PAGE_SIZE))
SPAN = 24 * PAGE_SIZE


class Case:
    """A memory of random regions, and which of its addresses exist and can be written."""

    def __init__(self, pieces: list[tuple[int, int, bool]]) -> None:
        regions = []
        offsets = [0, 0]
        self.writable: dict[int, bool] = {}
        gpa = 0
        for index, (hole, pages, readonly) in enumerate(pieces):
            gpa += hole * PAGE_SIZE
            host = HOSTS[index % 2]
            size = pages * PAGE_SIZE
            regions.append(Region(gpa, size, host, offsets[index % 2], readonly))
            offsets[index % 2] += size
            self.writable.update(dict.fromkeys(range(gpa, gpa + size), not readonly))
            gpa += size
        self.memory = GuestMemory(regions)

    def readable(self, gpa: int, size: int) -> bool:
        return size > 0 and all(address in self.writable for address in range(gpa, gpa + size))

    def can_write(self, gpa: int, size: int) -> bool:
        return size > 0 and all(self.writable.get(address, False) for address in range(gpa, gpa + size))


PIECES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 3), st.booleans()),
    min_size=1,
    max_size=5,
)
# Half of the addresses near a page border, where seams and gaps are.
ADDRESSES = st.one_of(
    st.integers(-8, SPAN),
    st.builds(lambda page, near: page * PAGE_SIZE + near, st.integers(0, 20), st.integers(-9, 9)),
)
SIZES = st.one_of(st.integers(-2, 16), st.integers(1, 3 * PAGE_SIZE))


@given(PIECES, ADDRESSES, SIZES)
def test_contains_views_and_read_agree_with_the_model(
    pieces: list[tuple[int, int, bool]], gpa: int, size: int
) -> None:
    case = Case(pieces)

    if not case.readable(gpa, size):
        assert not case.memory.contains(gpa, size)
        for access in (case.memory.view, case.memory.views, case.memory.read):
            with pytest.raises(GuestMemoryError):
                access(gpa, size)
        return

    assert case.memory.contains(gpa, size)
    views = case.memory.views(gpa, size)
    assert sum(len(view) for view in views) == size
    assert all(views)
    assert b"".join(views) == case.memory.read(gpa, size)
    assert [view.nbytes for view in views] == [
        min(gpa + size, region.end) - max(gpa, region.gpa)
        for region in case.memory.regions
        if region.gpa < gpa + size and gpa < region.end
    ]


@given(PIECES, st.lists(st.tuples(ADDRESSES, st.binary(max_size=20)), max_size=8))
def test_write_and_read_agree_with_the_model(
    pieces: list[tuple[int, int, bool]], writes: list[tuple[int, bytes]]
) -> None:
    case = Case(pieces)
    model = bytearray(SPAN)
    for region in case.memory.regions:
        model[region.gpa : region.end] = region.host.buffer[region.offset : region.offset + region.size]

    for gpa, data in writes:
        if case.can_write(gpa, len(data)):
            case.memory.write(gpa, data)
            model[gpa : gpa + len(data)] = data
        else:
            with pytest.raises(GuestMemoryError):
                case.memory.write(gpa, data)

    for region in case.memory.regions:
        assert case.memory.read(region.gpa, region.size) == model[region.gpa : region.end]


@given(PIECES, ADDRESSES, st.sampled_from([1, 2, 4, 8]), st.integers(0, (1 << 64) - 1))
def test_fixed_widths_agree_with_the_model(
    pieces: list[tuple[int, int, bool]], gpa: int, size: int, number: int
) -> None:
    case = Case(pieces)
    value = number & (1 << 8 * size) - 1
    read: Callable[[int], int] = getattr(case.memory, f"read_u{8 * size}")
    write: Callable[[int, int], None] = getattr(case.memory, f"write_u{8 * size}")

    if case.can_write(gpa, size):
        write(gpa, value)
        assert read(gpa) == value
        assert case.memory.read(gpa, size) == value.to_bytes(size, "little")
        return
    with pytest.raises(GuestMemoryError):
        write(gpa, value)
    if case.readable(gpa, size):
        assert read(gpa) == int.from_bytes(case.memory.read(gpa, size), "little")
    else:
        with pytest.raises(GuestMemoryError):
            read(gpa)
