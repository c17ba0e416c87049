from __future__ import annotations

import os
import resource
import struct
import threading
import time
from pathlib import Path

import pytest

from pyvmm.boot import payload
from pyvmm.boot.payload import PayloadError, unpack_cached
from pyvmm.boot.unpack import UnpackError, unpack_bzimage
from pyvmm.host import confined
from tests.support.images import COMPRESSORS, lz4_legacy, vmlinux, with_size

DATA = vmlinux() + os.urandom(10_000) + bytes(300_000)


@pytest.fixture(params=sorted(COMPRESSORS))
def packed(request: pytest.FixtureRequest) -> memoryview:
    return memoryview(COMPRESSORS[request.param](DATA))


@pytest.fixture
def lz4_packed() -> memoryview:
    return memoryview(COMPRESSORS["lz4"](DATA))


def _entry(directory: Path) -> Path:
    (found,) = directory.iterdir()
    return found


def test_unpack_bzimage_when_the_format_is_one_of_the_kernels_gives_the_data(packed: memoryview) -> None:
    assert unpack_bzimage(packed) == DATA


def test_unpack_bzimage_when_cut_short_refuses(packed: memoryview) -> None:
    for cut in range(8, len(packed) - 4, len(packed) // 7):
        # with a size field that is right, so that only the data is wrong
        with pytest.raises(UnpackError):
            unpack_bzimage(memoryview(with_size(bytes(packed[:cut]), DATA)))


@pytest.mark.parametrize("size", [0, 1, len(DATA) - 1, len(DATA) + 1, 1 << 30, (1 << 30) + 1, 0xFFFFFFFF])
def test_unpack_bzimage_when_the_size_field_is_wrong_refuses(packed: memoryview, size: int) -> None:
    with pytest.raises(UnpackError):
        unpack_bzimage(memoryview(bytes(packed[:-4]) + struct.pack("<I", size)))


def test_unpack_bzimage_when_it_would_unpack_to_more_than_it_claims_stops_there() -> None:
    bomb = COMPRESSORS["xz"](bytes(16 << 20))

    with pytest.raises(UnpackError, match="instead of 4096"):
        unpack_bzimage(memoryview(bomb[:-4] + struct.pack("<I", 4096)))


def test_unpack_bzimage_when_lz4_has_several_blocks_joins_them() -> None:
    assert unpack_bzimage(memoryview(with_size(lz4_legacy(DATA, block=100_000), DATA))) == DATA


@pytest.mark.parametrize("data", [b"", b"\x7fELF" * 4, b"\x02\x21", b"\x02\x21ab" + bytes(8)])
def test_unpack_cached_when_the_format_is_unknown_refuses(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(PayloadError):
        unpack_cached(memoryview(data), str(tmp_path))

    assert not list(tmp_path.iterdir())


def test_unpack_cached_when_called_again_reads_the_entry(
    lz4_packed: memoryview, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = unpack_cached(lz4_packed, str(tmp_path / "deep" / "cache"))
    monkeypatch.setattr(confined, "call", lambda *_: pytest.fail("unpacked again"))

    second = unpack_cached(lz4_packed, str(tmp_path / "deep" / "cache"))

    assert first == second == DATA
    assert second.readonly
    entry = _entry(tmp_path / "deep" / "cache")
    assert entry.stat().st_mode & 0o777 == 0o600
    assert entry.read_bytes()[: len(DATA)] == DATA


@pytest.mark.parametrize(
    "position", [0, len(DATA) // 2, len(DATA) - 1, len(DATA), len(DATA) + 8, len(DATA) + 12]
)
def test_unpack_cached_when_an_entry_is_damaged_makes_it_anew(
    lz4_packed: memoryview, tmp_path: Path, position: int
) -> None:
    unpack_cached(lz4_packed, str(tmp_path))
    entry = _entry(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])

    assert unpack_cached(lz4_packed, str(tmp_path)) == DATA
    assert entry.read_bytes() == whole


@pytest.mark.parametrize("length", [0, 1, 20, 21, 4096, len(DATA)])
def test_unpack_cached_when_an_entry_is_cut_short_makes_it_anew(
    lz4_packed: memoryview, tmp_path: Path, length: int
) -> None:
    unpack_cached(lz4_packed, str(tmp_path))
    entry = _entry(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(whole[:length])

    assert unpack_cached(lz4_packed, str(tmp_path)) == DATA
    assert entry.read_bytes() == whole


@pytest.mark.parametrize("kind", ["directory", "fifo", "link"])
def test_unpack_cached_when_something_else_has_the_entrys_name_still_unpacks(
    lz4_packed: memoryview, tmp_path: Path, kind: str
) -> None:
    unpack_cached(lz4_packed, str(tmp_path))
    entry = _entry(tmp_path)
    entry.unlink()
    {
        "directory": entry.mkdir,
        "fifo": lambda: os.mkfifo(entry),
        "link": lambda: entry.symlink_to("/dev/zero"),
    }[kind]()

    assert unpack_cached(lz4_packed, str(tmp_path)) == DATA
    assert not list(tmp_path.glob("*.tmp"))


def test_unpack_cached_when_the_cache_cannot_be_written_does_without(
    lz4_packed: memoryview, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")

    assert unpack_cached(lz4_packed, str(tmp_path / "file" / "cache")) == DATA


def test_unpack_cached_when_the_disk_is_full_leaves_nothing_behind(
    lz4_packed: memoryview, tmp_path: Path
) -> None:
    # Files of this process may not grow any more; Python ignores SIGXFSZ, so that writes fail.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(DATA) // 2, hard))
    try:
        unpacked = unpack_cached(lz4_packed, str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert unpacked == DATA
    assert not list(tmp_path.iterdir())


def test_unpack_cached_when_used_by_many_at_once_gives_all_the_same(
    lz4_packed: memoryview, tmp_path: Path
) -> None:
    found: list[bool] = []
    start = threading.Barrier(8)

    def use() -> None:
        start.wait()
        found.append(unpack_cached(lz4_packed, str(tmp_path)) == DATA)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert found == [True] * 8
    assert len(list(tmp_path.iterdir())) == 1


def test_unpack_cached_when_the_cache_is_full_drops_the_longest_unused(tmp_path: Path) -> None:
    packs = [memoryview(COMPRESSORS["gzip"](DATA + bytes([i]))) for i in range(payload.MAX_ENTRIES + 1)]
    names = []
    for age, pack in enumerate(packs[:-1]):
        unpack_cached(pack, str(tmp_path))
        (new,) = {entry.name for entry in tmp_path.iterdir()} - set(names)
        names.append(new)
        os.utime(tmp_path / new, (1_000_000 + age, 1_000_000 + age))
    unpack_cached(packs[0], str(tmp_path))  # used again: now the youngest

    unpack_cached(packs[-1], str(tmp_path))

    left = {entry.name for entry in tmp_path.iterdir()}
    assert len(left) == payload.MAX_ENTRIES
    assert names[0] in left
    assert names[1] not in left


def test_unpack_cached_when_the_cache_takes_too_much_drops_the_longest_unused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "MAX_BYTES", 2 * len(DATA) + 1000)
    names: list[str] = []
    for age in range(3):
        unpack_cached(memoryview(COMPRESSORS["gzip"](DATA + bytes([age]))), str(tmp_path))
        new = {entry.name for entry in tmp_path.iterdir()} - set(names)
        names += new
        for name in new:
            os.utime(tmp_path / name, (1_000_000 + age, 0))

    assert {entry.name for entry in tmp_path.iterdir()} == set(names[1:])


@pytest.mark.parametrize(("age", "noted"), [(60, False), (7200, True)])
def test_unpack_cached_when_the_entry_was_used_before_notes_it_once_an_hour(
    age: int, noted: bool, lz4_packed: memoryview, tmp_path: Path
) -> None:
    unpack_cached(lz4_packed, str(tmp_path))
    (entry,) = tmp_path.iterdir()
    os.utime(entry, ns=(time.time_ns() - age * 10**9, entry.stat().st_mtime_ns))
    before = entry.stat().st_ctime_ns
    unpack_cached(lz4_packed, str(tmp_path))

    assert (entry.stat().st_ctime_ns != before) == noted


def test_unpack_cached_when_a_killed_process_left_a_file_removes_it(
    lz4_packed: memoryview, tmp_path: Path
) -> None:
    old, new = tmp_path / "x.elf.1.aa.tmp", tmp_path / "y.elf.2.bb.tmp"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)

    unpack_cached(lz4_packed, str(tmp_path))

    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PYVMM_CACHE": "own", "XDG_CACHE_HOME": "c", "HOME": "h"}, "own/payload"),
        ({"PYVMM_CACHE": "", "XDG_CACHE_HOME": "c", "HOME": "h"}, "c/pyvmm/payload"),
        ({"PYVMM_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "h"}, "h/.cache/pyvmm/payload"),
    ],
)
def test_unpack_cached_when_no_directory_is_given_uses_the_users_cache(
    environment: dict[str, str],
    expected: str,
    lz4_packed: memoryview,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, str(tmp_path / value) if value else "")

    unpack_cached(lz4_packed)

    assert [path.suffix for path in (tmp_path / expected).iterdir()] == [".elf"]
