"""Pages returned to the host to the host: by each kind of memory, and through the guest's map."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyvmm.memory.errors import GuestMemoryError
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import HUGE_PAGE_SIZE, PAGE_SIZE, Anonymous, FileBacked, HostMemory, Memfd
from tests.support.process import mapping_of

SIZE = 16 * PAGE_SIZE


def file_of(path: Path, **how: bool) -> FileBacked:
    path.write_bytes(b"f" * SIZE)
    return FileBacked(path, **how)


@pytest.mark.parametrize("make", [Anonymous, Memfd])
def test_discard_when_memory_was_written_clears_those_pages_alone(make: type[Anonymous]) -> None:
    host = make(SIZE)
    host.buffer[:] = b"x" * SIZE

    done = host.discard(PAGE_SIZE, 2 * PAGE_SIZE)

    assert done == 2 * PAGE_SIZE
    assert bytes(host.buffer) == b"x" * PAGE_SIZE + bytes(2 * PAGE_SIZE) + b"x" * 13 * PAGE_SIZE
    host.close()


@pytest.mark.parametrize("make", [Anonymous, Memfd])
def test_discard_when_memory_was_written_lowers_what_is_resident(make: type[Anonymous]) -> None:
    host = make(4 * HUGE_PAGE_SIZE)
    host.buffer[:] = b"x" * host.size
    before = _resident(host)

    host.discard(HUGE_PAGE_SIZE, 2 * HUGE_PAGE_SIZE)

    assert before - _resident(host) == 2 * HUGE_PAGE_SIZE
    host.close()


@pytest.mark.parametrize(
    ("offset", "size", "done"),
    [
        (1, PAGE_SIZE, 0),
        (1, 2 * PAGE_SIZE, PAGE_SIZE),
        (SIZE - PAGE_SIZE, 9 * PAGE_SIZE, PAGE_SIZE),
        (0, 0, 0),
        (-PAGE_SIZE, PAGE_SIZE, 0),
        (SIZE, PAGE_SIZE, 0),
    ],
)
def test_discard_when_the_range_is_odd_takes_the_whole_pages_inside(
    offset: int, size: int, done: int
) -> None:
    host = Anonymous(SIZE)

    assert host.discard(offset, size) == done
    host.close()


def test_discard_when_writes_reach_a_file_makes_a_hole_in_it(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    host = file_of(path)

    done = host.discard(0, PAGE_SIZE)

    if not done:
        pytest.skip("this file system makes no holes")
    assert path.read_bytes() == bytes(PAGE_SIZE) + b"f" * (SIZE - PAGE_SIZE)
    host.close()


@pytest.mark.parametrize("how", ["readonly", "private"])
def test_discard_when_writes_do_not_reach_the_file_does_nothing(tmp_path: Path, how: str) -> None:
    path = tmp_path / "rom"
    host = file_of(path, **{how: True})

    assert host.discard(0, SIZE) == 0
    assert bytes(host.buffer) == path.read_bytes() == b"f" * SIZE
    host.close()


def test_discard_when_closed_does_nothing() -> None:
    host = Anonymous(SIZE)
    host.close()

    assert host.discard(0, SIZE) == 0


def test_guest_range_when_across_regions_is_given_back_in_all_of_them() -> None:
    first, second = Anonymous(SIZE), Memfd(SIZE)
    memory = GuestMemory([Region(0, SIZE, first), Region(SIZE, SIZE // 2, second, offset=SIZE // 2)])
    memory.write(SIZE - PAGE_SIZE, b"x" * 2 * PAGE_SIZE)
    second.buffer[:PAGE_SIZE] = b"y" * PAGE_SIZE

    done = memory.discard(SIZE - PAGE_SIZE, 2 * PAGE_SIZE)

    assert done == 2 * PAGE_SIZE
    assert memory.read(SIZE - PAGE_SIZE, 2 * PAGE_SIZE) == bytes(2 * PAGE_SIZE)
    assert bytes(second.buffer[:PAGE_SIZE]) == b"y" * PAGE_SIZE
    memory.close()


@pytest.mark.parametrize("gpa", [SIZE - PAGE_SIZE, 2 * SIZE, 3 * SIZE], ids=["gap", "rom", "outside"])
def test_guest_range_when_not_all_of_it_is_ram_is_refused_whole(gpa: int) -> None:
    rom = Anonymous(SIZE)
    rom.buffer[:] = os.urandom(SIZE)
    before = bytes(rom.buffer)
    memory = GuestMemory([Region(0, SIZE, Anonymous(SIZE)), Region(2 * SIZE, SIZE, rom, readonly=True)])
    memory.write(SIZE - PAGE_SIZE, b"x" * PAGE_SIZE)

    with pytest.raises(GuestMemoryError):
        memory.discard(gpa, 2 * PAGE_SIZE)

    assert memory.read(SIZE - PAGE_SIZE, PAGE_SIZE) == b"x" * PAGE_SIZE
    assert bytes(rom.buffer) == before
    memory.close()


def test_locate_when_given_a_view_of_guest_memory_tells_its_address() -> None:
    memory = GuestMemory([Region(0, SIZE, Anonymous(SIZE)), Region(4 * SIZE, SIZE, Memfd(SIZE))])

    found = [memory.locate(memory.view(gpa, 16)) for gpa in (0, 77, 4 * SIZE + 5)]

    assert found == [0, 77, 4 * SIZE + 5]
    with pytest.raises(GuestMemoryError, match="none of guest memory"):
        memory.locate(memoryview(b"something else"))
    memory.close()


def _resident(host: HostMemory) -> int:
    entry = mapping_of(host.address)
    assert entry is not None
    return int(entry["Rss"].split()[0]) << 10
