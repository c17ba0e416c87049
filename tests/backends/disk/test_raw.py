"""Raw images: bytes in their place, whatever the file system does."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.disk import raw
from pyvmm.backends.disk.base import DiskError
from pyvmm.backends.disk.raw import RawDisk

SIZE = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def disk(path: Path) -> Iterator[RawDisk]:
    disk = RawDisk(str(path))
    yield disk
    disk.close()


def views(*sizes: int) -> list[memoryview]:
    return [memoryview(bytearray(size)) for size in sizes]


def of(*parts: bytes) -> list[memoryview]:
    return [memoryview(part) for part in parts]


def test_read_fills_views_in_order(path: Path, disk: RawDisk) -> None:
    got = views(100, 412, 1024)

    disk.read(got, 512, 1536)

    assert b"".join(got) == path.read_bytes()[512:2048]


def test_write_when_read_again_is_there(path: Path, disk: RawDisk) -> None:
    disk.write(of(b"a" * 512, b"b" * 1024), 1024, 1536, False)

    assert path.read_bytes()[1024:2560] == b"a" * 512 + b"b" * 1024


def test_transfer_when_the_kernel_takes_it_in_pieces_is_whole(
    path: Path, disk: RawDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv, pwritev = os.preadv, os.pwritev
    monkeypatch.setattr(os, "preadv", lambda fd, views, at, flags=0: preadv(fd, [views[0][:100]], at))
    monkeypatch.setattr(os, "pwritev", lambda fd, views, at, flags=0: pwritev(fd, [views[0][:100]], at))
    expected, got = path.read_bytes()[:1024], views(300, 724)

    disk.read(got, 0, 1024)
    disk.write(got, 4096, 1024, False)

    assert b"".join(got) == expected
    assert path.read_bytes()[4096:5120] == expected


def test_read_when_the_file_was_cut_under_it_is_an_io_error(path: Path, disk: RawDisk) -> None:
    os.truncate(path, 4096)

    with pytest.raises(OSError, match="ends before") as raised:
        disk.read(views(8192), 0, 8192)

    assert raised.value.errno == errno.EIO


def test_durable_write_when_asked_for_asks_the_kernel_for_it(
    disk: RawDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[int] = []
    monkeypatch.setattr(
        os, "pwritev", lambda fd, views, at, flag: (flags.append(flag), sum(map(len, views)))[1]
    )

    disk.write(of(bytes(512)), 0, 512, True)
    disk.write(of(bytes(512)), 0, 512, False)

    assert flags == [os.RWF_DSYNC, 0]


def test_flush_when_one_failed_fails_for_ever(disk: RawDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails)
        with pytest.raises(OSError):
            disk.flush()

    with pytest.raises(OSError):
        disk.flush()


def test_discard_makes_a_hole(path: Path, disk: RawDisk) -> None:
    disk.flush()
    before = path.stat().st_blocks

    disk.discard(0, SIZE // 2)

    assert path.stat().st_blocks <= before // 2
    assert path.stat().st_size == SIZE


@pytest.mark.parametrize("unmap", [True, False])
def test_zeroes_read_as_zeroes_and_nothing_beside_them_changes(
    path: Path, disk: RawDisk, unmap: bool
) -> None:
    before = path.read_bytes()

    disk.write_zeroes(1024, 10240, unmap, True)

    assert path.read_bytes() == before[:1024] + bytes(10240) + before[11264:]


def test_zeroes_when_the_file_system_has_no_way_to_make_them_are_written(
    path: Path, disk: RawDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(mode: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(disk, "_allocate", refuse)
    monkeypatch.setattr(raw, "BUFFER", 4096)
    before = path.read_bytes()

    disk.write_zeroes(512, 10240, True, False)

    assert path.read_bytes() == before[:512] + bytes(10240) + before[10752:]


def test_refresh_when_the_file_grew_sees_it(path: Path, disk: RawDisk) -> None:
    unchanged = disk.refresh()
    os.truncate(path, 2 * SIZE)

    assert (unchanged, disk.refresh(), disk.size) == (False, True, 2 * SIZE)


def test_head_when_guarded_cannot_be_made_another_format(path: Path, disk: RawDisk) -> None:
    disk.close()
    guarded = RawDisk(str(path), guarded=True)
    before = path.read_bytes()

    with pytest.raises(OSError, match="look like qcow2; to allow that, give the disk with format=raw"):
        guarded.write(of(b"QFI", b"\xfb\0\0\0\3" + bytes(504)), 0, 512, False)
    guarded.write(of(b"boot sector" + bytes(501), b"more" * 128), 0, 1024, False)

    guarded.close()
    assert path.read_bytes() == b"boot sector" + bytes(501) + b"more" * 128 + before[1024:]


def test_head_when_not_guarded_may_be_anything(path: Path, disk: RawDisk) -> None:
    disk.write(of(b"QFI\xfb".ljust(512)), 0, 512, False)

    assert path.read_bytes()[:4] == b"QFI\xfb"


def test_direct_when_buffers_are_unaligned_goes_through_one_that_is(path: Path) -> None:
    try:
        disk = RawDisk(str(path), direct=True)
    except DiskError as error:
        pytest.skip(str(error))
    unit = disk.block_size
    store = memoryview(bytearray(3 * unit + 1))[1:]
    expected = path.read_bytes()[unit : 4 * unit]

    disk.read([store[:100], store[100:]], unit, 3 * unit)
    disk.write([store], 4 * unit, 3 * unit, False)
    disk.close()

    assert store == expected
    assert path.read_bytes()[4 * unit : 7 * unit] == expected
