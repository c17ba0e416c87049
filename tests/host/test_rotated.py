"""A file that is renamed when it is full."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from pyvmm.host.rotated import NotAFileError, RotatedFile


def test_full_file_is_renamed_and_two_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatedFile(str(path), limit=10)
    for line in (b"first\n", b"two\n", b"third\n", b"4\n", b"fifth\n"):
        assert file.writev([line]) == len(line)
    file.close()

    assert path.read_bytes() == b"fifth\n"
    assert (tmp_path / "log.1").read_bytes() == b"third\n4\n"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["log", "log.1"]


def test_file_that_is_continued_counts_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"12345678")
    file = RotatedFile(str(path), append=True, limit=10)
    file.writev([b"9", b"0"])
    file.writev([b"new"])
    file.close()

    assert ((tmp_path / "log.1").read_bytes(), path.read_bytes()) == (b"1234567890", b"new")


def test_write_that_is_larger_than_the_limit_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatedFile(str(path), limit=4)
    file.writev([b"longer than that"])
    file.writev([b"x"])
    file.close()

    assert (tmp_path / "log.1").read_bytes() == b"longer than that"


def test_file_that_others_have_filled_up_to_the_limit_of_this_process_is_renamed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatedFile(str(path), append=True, limit=10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        path.write_bytes(b"1234567890")
        file.writev([b"new"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    file.close()

    assert ((tmp_path / "log.1").read_bytes(), path.read_bytes()) == (b"1234567890", b"new")


def test_character_device_has_no_limit() -> None:
    file = RotatedFile("/dev/null", limit=4)
    for _ in range(3):
        assert file.writev([b"1234"]) == 4
    file.close()
    assert not os.path.exists("/dev/null.1")


def test_file_that_somebody_renamed_is_left_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatedFile(str(path), limit=4)
    file.writev([b"old"])
    path.rename(tmp_path / "elsewhere")
    file.writev([b"new"])
    file.close()

    assert ((tmp_path / "elsewhere").read_bytes(), path.read_bytes()) == (b"old", b"new")


def test_file_that_cannot_be_renamed_goes_on_later(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatedFile(str(path), limit=4)
    file.writev([b"old"])
    (tmp_path / "log.1").mkdir()
    with pytest.raises(IsADirectoryError):
        file.writev([b"lost"])
    (tmp_path / "log.1").rmdir()
    file.writev([b"new"])
    file.close()

    assert ((tmp_path / "log.1").read_bytes(), path.read_bytes()) == (b"old", b"new")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(NotAFileError):
        RotatedFile(str(tmp_path / "fifo"))
    os.close(reader)
