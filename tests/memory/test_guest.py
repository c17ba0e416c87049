"""The accessor: every kind of refusal, zero copy, seams, and what close() leaves."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from pyvmm.errors import GuestError
from pyvmm.memory.errors import GuestMemoryError, MemoryConfigError
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import PAGE_SIZE, PHYSICAL_LIMIT, Anonymous, FileBacked, Memfd

TOP = 0x1_0000_0000


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """0-0x1fff anonymous, 0x2000-0x3fff memfd, a gap, one read-only page, one page at 4 GiB."""
    low = Anonymous(2 * PAGE_SIZE)
    high = Memfd(3 * PAGE_SIZE)
    made = GuestMemory(
        [
            Region(TOP, PAGE_SIZE, high, 2 * PAGE_SIZE, name="high"),
            Region(0x2000, 2 * PAGE_SIZE, high, name="mid"),
            Region(0, 2 * PAGE_SIZE, low, name="low"),
            Region(0x8000, PAGE_SIZE, Anonymous(PAGE_SIZE), readonly=True, name="rom"),
        ]
    )
    yield made
    made.close()


def test_regions_when_given_in_any_order_are_sorted(memory: GuestMemory) -> None:
    assert [region.name for region in memory.regions] == ["low", "mid", "rom", "high"]
    assert memory.size == 6 * PAGE_SIZE


def test_view_when_written_reaches_the_host_object(memory: GuestMemory) -> None:
    memory.view(0x2FFE, 4)[:] = b"view"

    assert bytes(memory.regions[1].host.buffer[0xFFE:0x1002]) == b"view"


def test_view_when_it_would_cross_a_seam_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(GuestMemoryError, match="crosses the seam of two regions"):
        memory.view(0x1FFE, 4)


def test_views_when_crossing_a_seam_give_both_sides(memory: GuestMemory) -> None:
    memory.write(0x1FFE, b"abcd")

    assert [bytes(view) for view in memory.views(0x1FFE, 4)] == [b"ab", b"cd"]
    assert bytes(memory.regions[0].host.buffer[0x1FFE:]) == b"ab"
    assert bytes(memory.regions[1].host.buffer[:2]) == b"cd"


def test_read_when_crossing_a_seam_joins_both_sides(memory: GuestMemory) -> None:
    memory.regions[0].host.buffer[0x1FFF] = 1
    memory.regions[1].host.buffer[0] = 2

    assert memory.read(0x1FFF, 2) == b"\1\2"


OUTSIDE = [
    (0x3FFF, 2),  # into the gap
    (0x4000, 1),
    (0x7FFF, 2),  # out of the gap
    (0x0, 0x9000),  # across the gap
    (TOP + PAGE_SIZE, 1),
    (TOP + PAGE_SIZE - 1, 2),
    (0, 1 << 64),
    ((1 << 64) - 1, 1),
    ((1 << 64) - 8, 16),  # would wrap in 64 bits
    (1, (1 << 64) - 1),
    (-1, 1),
    (-8, 16),
    (0, 0),
    (0x1000, -1),
    (0x1000, -0x1000),
    (TOP, -(1 << 64)),
]


@pytest.mark.parametrize(("gpa", "size"), OUTSIDE)
def test_access_when_outside_is_refused_by_every_method(memory: GuestMemory, gpa: int, size: int) -> None:
    for access in (memory.view, memory.views, memory.read):
        with pytest.raises(GuestMemoryError, match="cannot be read"):
            access(gpa, size)
    for access in (memory.view, memory.views):
        with pytest.raises(GuestMemoryError, match="cannot be written"):
            access(gpa, size, write=True)
    assert not memory.contains(gpa, size)


def test_refusal_names_the_address_and_what_there_is(memory: GuestMemory) -> None:
    with pytest.raises(GuestError) as caught:
        memory.read(0x5000, 16)

    assert str(caught.value) == (
        "0x10 bytes at guest address 0x5000 cannot be read: guest memory is "
        "0x0-0x3fff, 0x8000-0x8fff, 0x100000000-0x100000fff"
    )


@pytest.mark.parametrize("gpa", [0, 0x1FFE, 0x2000, 0x3FFC, TOP, TOP + PAGE_SIZE - 4])
def test_contains_when_inside_or_across_a_seam_is_true(memory: GuestMemory, gpa: int) -> None:
    assert memory.contains(gpa, 4)


def test_write_when_empty_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(GuestMemoryError, match="at least one byte"):
        memory.write(0, b"")


def test_write_when_it_runs_out_of_memory_writes_nothing(memory: GuestMemory) -> None:
    with pytest.raises(GuestMemoryError):
        memory.write(0x3FFE, b"abcd")

    assert memory.read(0x3FFE, 2) == b"\0\0"


@pytest.mark.parametrize("typecode", ["B", "H", "I", "Q"])
def test_write_when_given_another_buffer_writes_its_bytes(memory: GuestMemory, typecode: str) -> None:
    data = memoryview(bytes(range(16))).cast(typecode)  # type: ignore[call-overload]

    memory.write(0x1FF8, data)

    assert memory.read(0x1FF8, 16) == bytes(range(16))


@pytest.mark.parametrize("name", ["write_u8", "write_u16", "write_u32", "write_u64"])
@pytest.mark.parametrize("gpa", [0x8000, 0x8009])
def test_fixed_write_when_readonly_is_refused(memory: GuestMemory, name: str, gpa: int) -> None:
    with pytest.raises(GuestMemoryError, match="read-only"):
        getattr(memory, name)(gpa, 1)


def test_write_when_readonly_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(GuestMemoryError, match="read-only"):
        memory.write(0x8000, b"x")
    with pytest.raises(GuestMemoryError, match="read-only"):
        memory.view(0x8000, 1, write=True)


def test_view_when_readonly_cannot_be_assigned(memory: GuestMemory) -> None:
    view = memory.view(0x8000, 4)

    with pytest.raises(TypeError, match="read-only"):
        view[0] = 1


def test_readonly_when_filled_through_the_host_object_is_readable(memory: GuestMemory) -> None:
    memory.regions[2].host.buffer[:4] = b"\x78\x56\x34\x12"

    assert memory.read_u32(0x8000) == 0x12345678


WIDTHS = [("u8", 1), ("u16", 2), ("u32", 4), ("u64", 8)]


@pytest.mark.parametrize(("name", "size"), WIDTHS)
@pytest.mark.parametrize("gpa", [0x1000, 0x1001, 0x1002, 0x1004, 0x1FFF, 0x1FFD, 0x2000, TOP])
def test_fixed_width_when_written_reads_back_little_endian(
    memory: GuestMemory, name: str, size: int, gpa: int
) -> None:
    value = 0x8877665544332211 & (1 << 8 * size) - 1

    getattr(memory, f"write_{name}")(gpa, value)

    assert getattr(memory, f"read_{name}")(gpa) == value
    assert memory.read(gpa, size) == value.to_bytes(size, "little")


@pytest.mark.parametrize(("name", "size"), WIDTHS)
@pytest.mark.parametrize("gpa", [0x4000, 0x7FFF, TOP + PAGE_SIZE, -1, -8, 1 << 64, (1 << 64) - 1])
def test_fixed_width_when_outside_is_refused(memory: GuestMemory, name: str, size: int, gpa: int) -> None:
    if gpa == 0x7FFF and size == 1:
        gpa = 0x7000
    with pytest.raises(GuestMemoryError):
        getattr(memory, f"read_{name}")(gpa)
    with pytest.raises(GuestMemoryError):
        getattr(memory, f"write_{name}")(gpa, 1)


@pytest.mark.parametrize(("name", "size"), WIDTHS)
@pytest.mark.parametrize("gpa", [0x1000, 0x1FFF])
def test_fixed_width_when_the_value_does_not_fit_is_a_value_error(
    memory: GuestMemory, name: str, size: int, gpa: int
) -> None:
    for value in (1 << 8 * size, -1):
        with pytest.raises(ValueError):
            getattr(memory, f"write_{name}")(gpa, value)

    assert memory.read(gpa, size) == bytes(size)


def test_translate_when_inside_gives_the_host_address(memory: GuestMemory) -> None:
    memory.write(TOP + 8, b"here")

    assert ctypes.string_at(memory.translate(TOP + 8), 4) == b"here"


@pytest.mark.parametrize("gpa", [0x4000, -1, TOP + PAGE_SIZE])
def test_translate_when_outside_is_refused(memory: GuestMemory, gpa: int) -> None:
    with pytest.raises(GuestMemoryError):
        memory.translate(gpa)


def test_close_when_views_are_held_keeps_them_and_refuses_the_rest(memory: GuestMemory) -> None:
    view = memory.view(0x1000, 4)
    view[:] = b"kept"

    memory.close()
    memory.close()

    assert bytes(view) == b"kept"
    with pytest.raises(GuestMemoryError, match="guest memory is closed"):
        memory.read(0x1000, 4)
    with pytest.raises(GuestMemoryError):
        memory.read_u32(0x1000)
    assert memory.size == 0


def test_memory_when_two_regions_overlap_names_both() -> None:
    host = Anonymous(4 * PAGE_SIZE)
    one = Region(0, 2 * PAGE_SIZE, host, name="one")
    two = Region(PAGE_SIZE, 2 * PAGE_SIZE, host, name="two")

    with pytest.raises(MemoryConfigError, match=r"'one' \(0x0-0x1fff\) and 'two' \(0x1000-0x2fff\) overlap"):
        GuestMemory([two, one])
    host.close()


@pytest.mark.parametrize(
    ("gpa", "size", "offset", "message"),
    [
        (1, PAGE_SIZE, 0, "must be multiples of"),
        (0, 100, 0, "must be multiples of"),
        (0, PAGE_SIZE, 8, "must be multiples of"),
        (-PAGE_SIZE, PAGE_SIZE, 0, "do not fit between 0"),
        (0, 0, 0, "do not fit between 0"),
        (0, -PAGE_SIZE, 0, "do not fit between 0"),
        (PHYSICAL_LIMIT, PAGE_SIZE, 0, "do not fit between 0"),
        (0, 3 * PAGE_SIZE, 0, "more than its anonymous memory"),
        (0, PAGE_SIZE, 2 * PAGE_SIZE, "more than its anonymous memory"),
        (0, PAGE_SIZE, -PAGE_SIZE, "more than its anonymous memory"),
    ],
)
def test_region_when_misplaced_is_refused_by_name(gpa: int, size: int, offset: int, message: str) -> None:
    host = Anonymous(2 * PAGE_SIZE)

    with pytest.raises(MemoryConfigError, match=f"'bad'.*{message}"):
        Region(gpa, size, host, offset, name="bad")
    host.close()


def test_region_when_its_file_is_readonly_must_say_so(tmp_path: object) -> None:
    path = f"{tmp_path}/rom"
    with open(path, "wb") as file:
        file.write(bytes(PAGE_SIZE))
    host = FileBacked(path, readonly=True)

    with pytest.raises(MemoryConfigError, match="is read-only; say so"):
        Region(0, PAGE_SIZE, host)

    assert Region(0, PAGE_SIZE, host, readonly=True).buffer.readonly
    host.close()
