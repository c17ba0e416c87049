"""Blocks of another size than the medium's: sizes that are no multiple of a block, parts of blocks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.disk.aligned import WriteGate
from pyvmm.backends.disk.base import Disk, DiskError
from pyvmm.backends.disk.image import open_disk
from pyvmm.backends.disk.raw import RawDisk
from tests.support.loop_device import loop_device

SIZE = 1 << 20
#: Bytes of an image that ends within a sector, and the sectors of a disk that has them all.
ODD, SECTORS = 123_456_789, 241_127


def read(disk: Disk, offset: int, size: int) -> bytes:
    data = memoryview(bytearray(b"\xaa" * size))
    disk.read([data[:100], data[100:]], offset, size)
    return bytes(data)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    path = tmp_path / "odd.img"
    with open(path, "wb") as file:
        file.truncate(ODD)
        file.seek(ODD - 300)
        file.write(b"e" * 300)
    return path


@pytest.fixture(params=[False, True], ids=["cached", "direct"])
def direct(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def device(image: Path) -> Iterator[str]:
    """A block device with blocks of 4096 bytes."""
    with loop_device(image, 4096) as path:
        yield path


class TestOddSize:
    def test_readonly_disk_has_a_whole_sector_for_the_last_bytes_and_zeroes_behind(
        self, odd: Path, direct: bool
    ) -> None:
        disk = open_disk(str(odd), readonly=True, direct=direct)
        last = read(disk, (SECTORS - 2) * 512, 1024)
        disk.close()

        assert disk.size == SECTORS * 512
        assert last == (bytes(ODD - 300 - (SECTORS - 2) * 512) + b"e" * 300).ljust(1024, b"\0")

    def test_readonly_disk_with_larger_blocks_has_whole_ones(self, odd: Path) -> None:
        disk = open_disk(str(odd), readonly=True, block_size=4096)
        last = read(disk, disk.size - 4096, 4096)
        disk.close()

        assert disk.size == -(-ODD // 4096) * 4096
        assert last.rstrip(b"\0").endswith(b"\0" + b"e" * 300)

    def test_image_cut_under_a_readonly_disk_is_an_io_error_and_no_zeroes(
        self, odd: Path, direct: bool
    ) -> None:
        disk = open_disk(str(odd), readonly=True, direct=direct)
        os.truncate(odd, 4096)

        with pytest.raises(OSError, match="ends before"):
            read(disk, (SECTORS - 8) * 512, 4096)
        disk.close()

    def test_writable_disk_is_refused_with_the_size_it_should_have(self, odd: Path) -> None:
        with pytest.raises(DiskError, match=f"has {ODD} bytes.*truncate -s {SECTORS * 512}"):
            open_disk(str(odd))

    def test_writable_disk_that_is_no_multiple_of_the_blocks_asked_for_is_refused(self, image: Path) -> None:
        os.truncate(image, SIZE + 512)

        with pytest.raises(DiskError, match="no multiple of 4096"):
            open_disk(str(image), block_size=4096)
        open_disk(str(image)).close()


@pytest.mark.parametrize(("block_size", "size"), [(None, 1024), (4096, 4096)])
def test_image_made_of_a_size_that_is_no_multiple_of_a_block_has_whole_ones(
    tmp_path: Path, block_size: int | None, size: int
) -> None:
    disk = open_disk(str(tmp_path / "new"), create=1000, block_size=block_size)
    disk.close()

    assert disk.size == size == (tmp_path / "new").stat().st_size


class TestLoopDevice:
    def test_blocks_are_the_devices_unless_others_are_asked_for(self, device: str) -> None:
        found = []
        for asked in (None, 512, 4096):
            disk = RawDisk(device, block_size=asked)
            found.append((disk.block_size, disk.physical_block_size))
            disk.close()

        assert found == [(4096, 4096), (512, 4096), (4096, 4096)]

    def test_sectors_are_read_and_written_within_blocks(self, image: Path, device: str, direct: bool) -> None:
        expected = bytearray(image.read_bytes())
        disk = RawDisk(device, direct=direct, block_size=512)
        for sector, count in ((3, 1), (7, 2), (16, 8), (21, 30)):
            data = os.urandom(count * 512)
            disk.write([memoryview(data)[:200], memoryview(data)[200:]], sector * 512, len(data), False)
            expected[sector * 512 : (sector + count) * 512] = data
        got = read(disk, 512, 100 * 512)
        disk.flush()
        disk.close()

        assert got == expected[512 : 101 * 512]
        assert image.read_bytes() == expected

    def test_zeroes_and_discards_of_parts_of_blocks_change_nothing_beside_them(
        self, image: Path, device: str, direct: bool
    ) -> None:
        before = image.read_bytes()
        disk = RawDisk(device, direct=direct, block_size=512)

        disk.write_zeroes(3 * 512, 20 * 512, True, True)
        disk.discard(40 * 512 + 512, 2 * 512)
        disk.discard(63 * 512, 10 * 512)  # the block from sector 64 on, and parts of two others
        disk.flush()
        disk.close()

        after = image.read_bytes()
        assert after[: 3 * 512] == before[: 3 * 512]
        assert after[3 * 512 : 23 * 512] == bytes(20 * 512)
        assert after[23 * 512 : 64 * 512] == before[23 * 512 : 64 * 512]
        assert after[72 * 512 :] == before[72 * 512 :]

    def test_parts_of_one_block_written_at_once_are_all_there(self, image: Path, device: str) -> None:
        disk = RawDisk(device, direct=True, block_size=512)

        def fill(sector: int) -> None:
            for turn in range(60):
                disk.write([memoryview(bytes([turn + sector]) * 512)], sector * 512, 512, False)

        threads = [threading.Thread(target=fill, args=(sector,)) for sector in range(1, 8)]
        for thread in threads:
            thread.start()
        for _ in range(60):
            disk.write([memoryview(b"w" * 4096)], 4096, 4096, False)
        for thread in threads:
            thread.join()
        disk.close()

        found = image.read_bytes()
        assert [found[sector * 512] for sector in range(1, 8)] == [59 + sector for sector in range(1, 8)]
        assert found[4096:8192] == b"w" * 4096

    def test_device_that_ends_within_a_block_is_refused_with_what_to_give(self, image: Path) -> None:
        os.truncate(image, SIZE + 512)
        with (
            loop_device(image, 512) as device,
            pytest.raises(DiskError, match="give block-size=512, or ro"),
        ):
            RawDisk(device, block_size=4096)


@pytest.mark.parametrize(
    ("table", "block", "says"), [(512, 512, False), (4096, 512, True), (4096, 4096, False)]
)
def test_partition_table_made_for_other_blocks_is_told_with_the_option_that_finds_it(
    image: Path, caplog: pytest.LogCaptureFixture, table: int, block: int, says: bool
) -> None:
    with open(image, "r+b") as file:
        file.seek(table)
        file.write(b"EFI PART")

    open_disk(str(image), block_size=None if block == 512 else block).close()

    assert (f"block-size={table}" in caplog.text) is says


def test_part_of_a_block_is_written_when_no_other_write_is_under_way() -> None:
    gate, order = WriteGate(), list[str]()
    gate.enter(True)
    gate.enter(True)

    def part() -> None:
        gate.enter(False)
        order.append("part")
        gate.leave(False)

    thread = threading.Thread(target=part)
    thread.start()
    thread.join(0.05)
    order.append("whole")
    gate.leave(True)
    gate.leave(True)
    thread.join()

    assert order == ["whole", "part"]
