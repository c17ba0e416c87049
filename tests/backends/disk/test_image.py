"""What can be wrong with an image, each in one sentence; formats told apart; images made."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from pyvmm.backends.disk import image, qemu
from pyvmm.backends.disk.base import DiskError
from pyvmm.backends.disk.format import FORMATS, detect
from pyvmm.backends.disk.image import open_disk
from pyvmm.backends.disk.raw import RawDisk
from tests.support.disks import HEADS


def refusal(path: Path | str, **options: object) -> str:
    with pytest.raises(DiskError) as raised:
        open_disk(str(path), **options)  # type: ignore[arg-type]
    sentence = str(raised.value)
    assert str(path) in sentence and "\n" not in sentence
    return sentence


def test_missing_image_says_how_to_make_one(tmp_path: Path) -> None:
    assert "there is no disk" in refusal(tmp_path / "none.img")


def test_directory_is_named(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path)
    assert "is a directory" in refusal(tmp_path, readonly=True)


def test_fifo_is_refused_without_waiting_for_its_other_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    assert "is a pipe" in refusal(tmp_path / "fifo")
    assert "is a pipe" in refusal(tmp_path / "fifo", readonly=True)


def test_character_device_is_refused() -> None:
    assert "is a character device" in refusal("/dev/null")


def test_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    assert "is empty" in refusal(tmp_path / "empty")


def test_size_that_is_no_multiple_of_a_sector_is_refused_with_the_next_one_that_is(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(bytes(1000))

    assert "has 1000 bytes, which is no multiple of 512" in (sentence := refusal(tmp_path / "odd"))
    assert "truncate -s 1024" in sentence


def test_name_too_long_is_a_sentence(tmp_path: Path) -> None:
    assert "cannot be opened: File name too long" in refusal(tmp_path / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_image_that_may_only_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(512))
    path.chmod(0o400)

    assert "cannot be written: Permission denied; give it with ro" in refusal(path)


def test_create_makes_a_sparse_image_once(tmp_path: Path) -> None:
    path = tmp_path / "new.img"

    open_disk(str(path), create=1 << 30).close()
    path.write_bytes(b"kept".ljust(512))
    open_disk(str(path), create=1 << 30).close()

    assert path.read_bytes() == b"kept".ljust(512)


def test_create_when_it_cannot_is_a_sentence(tmp_path: Path) -> None:
    assert "cannot be made: No such file" in refusal(tmp_path / "no" / "x.img", create=512)
    assert "cannot have" in refusal(tmp_path / "huge.img", create=1 << 62)
    assert not (tmp_path / "huge.img").exists()


@pytest.mark.parametrize("name", HEADS)
def test_format_is_known_by_its_magic(name: str) -> None:
    assert detect(HEADS[name].ljust(512, b"\0")) == name
    assert name in FORMATS


@pytest.mark.parametrize("head", [b"", b"QFI", bytes(512), b"\xebX\x90MSDOS".ljust(512), b"LUKS\xba\xbe\0\1"])
def test_format_when_there_is_no_header_is_raw(head: bytes) -> None:
    assert detect(head) == "raw"


def test_format_when_said_to_be_raw_is_raw_whatever_it_looks_like(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(HEADS["qcow2"].ljust(512))

    disk = open_disk(str(path), format="raw")
    disk.close()

    assert isinstance(disk, RawDisk)


def test_format_when_said_and_not_found_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(HEADS["vdi"].ljust(512))

    assert "is vdi, not qcow2; give format=vdi" in refusal(path, format="qcow2")
    assert "format=zip is not offered" in refusal(path, format="zip")


def test_qemu_nbd_when_missing_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(
        (HEADS["qcow2"] + bytes(12) + struct.pack(">I", 16)).ljust(100, b"\0") + struct.pack(">I", 104)
    )
    monkeypatch.setattr(qemu.shutil, "which", lambda name: None)

    assert "needs qemu-nbd" in (sentence := refusal(path))
    assert "qemu-utils" in sentence


def test_choices_are_auto_and_every_format() -> None:
    assert image.CHOICES[:2] == ("auto", "raw")
    assert set(HEADS) < set(image.CHOICES)
