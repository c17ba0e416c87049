"""Images that name other files: none is opened but those that the user gives."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.backends.disk.base import Disk, DiskError
from pyvmm.backends.disk.chain import ImageChain
from pyvmm.backends.disk.image import open_disk
from pyvmm.backends.disk.qemu import QemuDisk
from tests.support.disks import HEADS

pytestmark = pytest.mark.timeout(120)
needs_qemu = pytest.mark.skipif(not shutil.which("qemu-nbd"), reason="qemu-utils is not installed")
SIZE = 1 << 20
SECRET = b"root:secret:".ljust(SIZE, b".")


def make(path: Path, format: str, *options: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", format, *options, path, str(SIZE)], check=True)
    return path


def changed(path: Path, offset: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


def content(disk: Disk, size: int) -> bytes:
    data = bytearray(size)
    disk.read([memoryview(data)], 0, size)
    disk.close()
    return bytes(data)


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(DiskError) as raised:
        open_disk(str(path), **options).close()  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    return str(raised.value)


def complaint(path: Path, format: str) -> str:
    """What is wrong with an image's header; nothing where it is accepted."""
    try:
        ImageChain(str(path), format, []).close()
    except DiskError as problem:
        return str(problem)
    return ""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


def qcow2(name: bytes, format: bytes = b"raw", extension: int = 0xE2792ACA, features: int = 0) -> bytes:
    """The header of a qcow2 image that names *name*, with one header extension."""
    text = format.ljust((len(format) + 7) // 8 * 8, b"\0")
    extensions = struct.pack(">II", extension, len(format)) + text + bytes(8)
    at = 104 + len(extensions)
    head = struct.pack(">4sIQIIQI", b"QFI\xfb", 3, at if name else 0, len(name), 16, SIZE, 0)
    head += struct.pack(">IQQIIQQQQII", 1, 0x30000, 0x10000, 1, 0, 0, features, 0, 0, 4, 104)
    return (head + extensions + name).ljust(0x40000, b"\0")


@needs_qemu
@pytest.mark.parametrize("options", [{}, {"readonly": True}, {"snapshot": True}, {"format": "qcow2"}])
def test_qcow2_image_that_names_a_file_below_is_refused(
    tmp_path: Path, secret: Path, options: dict[str, object]
) -> None:
    path = make(tmp_path / "disk.qcow2", "qcow2", "-b", str(secret), "-F", "raw")

    assert f"which it calls '{secret}'; if the guest may read that one, give" in refusal(path, **options)


@needs_qemu
@pytest.mark.parametrize("options", [{}, {"readonly": True}, {"backing": ["{secret}"]}])
def test_qcow2_image_with_its_data_in_another_file_is_refused_and_that_stays(
    tmp_path: Path, secret: Path, options: dict[str, object]
) -> None:
    named = tmp_path / "data"
    path = make(tmp_path / "disk.qcow2", "qcow2", "-o", f"data_file={named},data_file_raw=on")
    named.write_bytes(SECRET)
    if "backing" in options:
        options = {"backing": [str(secret)]}

    assert "keeps its data in another file" in refusal(path, **options)
    assert named.read_bytes() == SECRET


def test_name_of_a_data_file_without_its_feature_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(qcow2(b"", b"/etc/passwd", extension=0x44415441))

    assert "keeps its data in another file" in refusal(path)


@pytest.mark.parametrize(
    "name",
    [
        b'json:{"driver":"nbd","server":{"type":"unix","path":"/s"}}',
        b"nbd://192.0.2.1/x",
        b"http://192.0.2.1/x",
        b"/dev/sda",
        b"\x1b[2J\n",
        b"x" * 1023,
    ],
)
def test_name_of_any_kind_is_shown_and_not_opened(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(qcow2(name))

    assert "has only the changes to another file" in (sentence := refusal(path))
    assert sentence.isprintable()


DESCRIPTOR = b"""%s# Disk DescriptorFile
version=1
CID=1
parentCID=ffffffff
createType="monolithicFlat"
RW 2048 FLAT "%s" 0
"""


@pytest.mark.parametrize("begin", [b"", b"# a comment\n\n"])
@pytest.mark.parametrize("options", [{}, {"format": "vmdk"}, {"readonly": True, "format": "vmdk"}])
@pytest.mark.parametrize("name", ["disk.img", "disk.vmdk"])
def test_vmdk_text_that_names_its_extents_is_refused_and_they_stay(
    tmp_path: Path, secret: Path, begin: bytes, options: dict[str, object], name: str
) -> None:
    path = tmp_path / name
    path.write_bytes((DESCRIPTOR % (begin, os.fsencode(secret))).ljust(1024, b"\n"))

    sentence = refusal(path, **options)

    assert "VMDK image of several files" in sentence or "has a vmdk header" in sentence
    assert secret.read_bytes() == SECRET


@pytest.mark.parametrize("magic", [b"KDMV", b"COWD"])
def test_vmdk_header_without_a_capacity_whose_descriptor_names_extents_is_refused(
    tmp_path: Path, secret: Path, magic: bytes
) -> None:
    path = tmp_path / "disk.vmdk"
    head = struct.pack("<4sIIQQQQ", magic, 1, 3, 0, 128, 1, 20).ljust(512, b"\0")
    path.write_bytes(head + (DESCRIPTOR % (b"", os.fsencode(secret))).ljust(64 << 10, b"\0"))

    assert "VMDK image of several files" in refusal(path)


@needs_qemu
@pytest.mark.parametrize("format", ["qcow2", "qcow", "qed", "vmdk"])
def test_image_below_is_read_when_it_is_given_and_not_written(tmp_path: Path, format: str) -> None:
    lower = "vmdk" if format == "vmdk" else "raw"
    below = make(tmp_path / f"below.{lower}", lower)
    if format == "vmdk":
        subprocess.run(
            ["qemu-io", "-f", "vmdk", "-c", "write -P 0x42 0 64k", below], check=True, capture_output=True
        )
    else:
        below.write_bytes(b"\x42" * SIZE)
    before = below.read_bytes()
    path = make(tmp_path / f"disk.{format}", format, "-b", str(below), "-F", lower)

    assert "has only the changes to another file" in refusal(path, format=format)
    disk = open_disk(str(path), format=format, backing=[str(below)])
    disk.write([memoryview(b"x" * 512)], 0, 512, True)

    assert content(disk, 1024) == b"x" * 512 + b"\x42" * 512
    assert below.read_bytes() == before


@needs_qemu
def test_file_that_is_given_counts_not_the_one_that_is_named(tmp_path: Path, secret: Path) -> None:
    path = make(tmp_path / "disk.qcow2", "qcow2", "-b", str(secret), "-F", "raw")
    given = tmp_path / "given.img"
    given.write_bytes(b"given".ljust(SIZE, b"."))
    secret.unlink()

    assert content(open_disk(str(path), backing=[str(given)]), 512).startswith(b"given")


@needs_qemu
def test_chain_of_images_is_checked_to_its_end(tmp_path: Path, secret: Path) -> None:
    lowest = make(tmp_path / "lowest.qcow2", "qcow2", "-b", str(secret), "-F", "raw")
    middle = make(tmp_path / "middle.qcow2", "qcow2", "-b", str(lowest), "-F", "qcow2")
    path = make(tmp_path / "disk.qcow2", "qcow2", "-b", str(middle), "-F", "qcow2")
    chain = [str(middle), str(lowest), str(secret)]

    for missing in ([], chain[:1], chain[:2]):
        assert "has only the changes to another file" in refusal(path, backing=missing)
    assert f"disk {secret} has no image below it" in refusal(path, backing=[*chain, str(secret)])
    assert content(open_disk(str(path), backing=chain), 512) == SECRET[:512]
    assert content(open_disk(str(path), backing=chain, snapshot=True), 512) == SECRET[:512]


@needs_qemu
def test_image_below_has_the_format_that_is_named_or_is_refused(tmp_path: Path) -> None:
    below = make(tmp_path / "below.img", "qcow2")
    path = make(tmp_path / "disk.qcow2", "qcow2", "-b", str(below), "-F", "qcow2")
    silent = tmp_path / "silent.qcow2"
    silent.write_bytes(qcow2(b"below.img", b"", extension=0x6803F857))
    wrong = tmp_path / "wrong.qcow2"
    wrong.write_bytes(qcow2(b"below.img", b"vdi"))

    open_disk(str(path), backing=[str(below)]).close()
    assert f"disk {below} is qcow2, and raw by" in refusal(silent, backing=[str(below)])
    assert "calls it vdi; only raw, qcow2, vmdk may be" in refusal(wrong, backing=[str(below)])


def test_raw_image_has_none_below(tmp_path: Path, secret: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))

    for format in ("raw", "auto"):
        assert "has no image below it" in refusal(path, backing=[str(secret)], format=format)


@needs_qemu
def test_server_opens_what_was_checked_whatever_has_its_name_then(tmp_path: Path, secret: Path) -> None:
    path = make(tmp_path / "disk.qcow2", "qcow2")
    chain = ImageChain(str(path), "auto", [])
    make(tmp_path / "other.qcow2", "qcow2", "-b", str(secret), "-F", "raw").rename(path)

    try:
        disk = QemuDisk(chain, False, False, False)
    finally:
        chain.close()

    assert content(disk, 512) == bytes(512)


def test_guest_that_writes_a_header_into_its_raw_disk_has_a_disk_that_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    disk = open_disk(str(path), format="raw")
    disk.write([memoryview(qcow2(b"/etc/passwd"))], 0, 0x40000, True)
    disk.close()

    assert "has a qcow2 header, which a guest may have written; give format=qcow2" in refusal(path)
    open_disk(str(path), format="raw").close()


def test_name_that_promises_a_header_and_has_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(bytes(SIZE))

    assert "is named as qcow2 and has no header of it; give format=raw" in refusal(path)
    open_disk(str(path), format="raw").close()


@pytest.mark.parametrize("format", ["auto", "qcow2"])
def test_create_makes_no_raw_image_that_is_named_as_another(tmp_path: Path, format: str) -> None:
    path = tmp_path / "disk.qcow2"

    assert "create makes raw images" in refusal(path, create=SIZE, format=format)
    assert not path.exists()


def vdi(path: Path) -> None:
    changed(make(path, "vdi"), 76, struct.pack("<I", 4))


def vpc(path: Path) -> None:
    changed(make(path, "vpc"), 60, struct.pack(">I", 4))


def vhdx(path: Path) -> None:
    """With the flag HasParent in its file parameters."""
    data = make(path, "vhdx").read_bytes()
    entry = data.index(bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b"))
    table = data.rindex(b"metadata", 0, entry)
    at = table + struct.unpack_from("<I", data, entry + 16)[0] + 4
    changed(path, at, struct.pack("<I", 2))


@needs_qemu
@pytest.mark.parametrize("differencing", [vdi, vpc, vhdx])
def test_image_that_is_the_difference_to_another_is_refused(
    tmp_path: Path, differencing: Callable[[Path], None]
) -> None:
    format = differencing.__name__
    whole = make(tmp_path / f"whole.{format}", format)
    path = tmp_path / f"disk.{format}"
    differencing(path)

    assert "has only the changes to another image" in refusal(path, format=format)
    open_disk(str(whole), format=format).close()


@needs_qemu
@pytest.mark.parametrize("format", ["vdi", "vhdx", "vpc", "qed", "qcow", "parallels"])
def test_format_that_is_seldom_used_is_opened_when_it_is_asked_for(tmp_path: Path, format: str) -> None:
    path = make(tmp_path / "disk.img", format)

    assert f"give format={format} if you know" in refusal(path)
    open_disk(str(path), format=format).close()


@pytest.mark.parametrize("seed", range(4))
def test_damaged_headers_are_sentences(tmp_path: Path, seed: int) -> None:
    """Only the header is looked at here: qemu-nbd has its own tests."""
    rng = random.Random(seed)
    path = tmp_path / "disk.qcow2"
    good = qcow2(b"/some/file")[:4096]
    for _ in range(150):
        data = bytearray(good[: rng.randrange(8, len(good))])
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(8, min(len(data), 200))] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        path.write_bytes(data)
        assert "\n" not in complaint(path, "auto")


@pytest.mark.parametrize("format", ["qcow2", "qcow", "qed", "vmdk", "vdi", "vhdx", "vpc", "parallels"])
def test_header_that_is_cut_off_is_a_sentence(tmp_path: Path, format: str) -> None:
    path = tmp_path / "disk.img"
    for size in (len(HEADS[format]), 70, 100, 512):
        path.write_bytes(HEADS[format].ljust(size, b"\xff")[:size])
        assert complaint(path, format).count(str(path)) <= 1


def test_descriptors_are_closed_whatever_is_wrong(tmp_path: Path, secret: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(qcow2(b"below"))
    before = len(os.listdir("/proc/self/fd"))

    refusal(path)
    refusal(path, backing=[str(secret), str(secret)])
    refusal(path, backing=[str(tmp_path / "none")])

    assert len(os.listdir("/proc/self/fd")) == before
