"""Images in QEMU's formats, through the real qemu-nbd."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyvmm.backends.disk.base import Disk, DiskError
from pyvmm.backends.disk.chain import ImageChain
from pyvmm.backends.disk.image import open_disk
from pyvmm.backends.disk.qemu import QemuDisk
from pyvmm.host import landlock
from tests.support.process import children

pytestmark = pytest.mark.skipif(not shutil.which("qemu-nbd"), reason="qemu-utils is not installed")
SIZE = 8 << 20


def make(path: Path, format: str, *options: str) -> str:
    subprocess.run(["qemu-img", "create", "-q", "-f", format, *options, path, str(SIZE)], check=True)
    return str(path)


def content(disk: Disk, offset: int, size: int) -> bytes:
    data = bytearray(size)
    disk.read([memoryview(data)], offset, size)
    return bytes(data)


def converted(path: str, tmp_path: Path) -> bytes:
    raw = tmp_path / "converted.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", path, raw], check=True)
    return raw.read_bytes()


@pytest.mark.parametrize("format", ["qcow2", "vmdk", "vdi", "vhdx"])
def test_image_when_written_and_closed_has_it_all(tmp_path: Path, format: str) -> None:
    path = make(tmp_path / "disk", format)
    data = os.urandom(200_000 // 512 * 512)

    disk = open_disk(path, format=format)
    disk.write([memoryview(data)[:1000], memoryview(data)[1000:]], 512, len(data), False)
    disk.flush()
    read = content(disk, 512, len(data))
    disk.write_zeroes(1024, 4096, True, True)
    disk.close()

    assert (disk.size, read, disk.describe()) == (SIZE, data, f"{format} {path}")
    expected = bytes(512) + data[:512] + bytes(4096) + data[4608:]
    assert converted(path, tmp_path) == expected.ljust(SIZE, b"\0")


def test_discard_gives_clusters_back(tmp_path: Path) -> None:
    path = make(tmp_path / "disk.qcow2", "qcow2")
    disk = open_disk(path)
    disk.write([memoryview(os.urandom(SIZE))], 0, SIZE, True)
    before = os.stat(path).st_blocks

    disk.discard(0, SIZE)
    disk.close()

    assert os.stat(path).st_blocks < before // 4


def test_image_in_use_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "disk.qcow2", "qcow2")
    disk = open_disk(path)

    with pytest.raises(DiskError, match="is in use by another process"):
        open_disk(path)

    disk.close()


def test_readers_share_an_image(tmp_path: Path) -> None:
    path = make(tmp_path / "disk.qcow2", "qcow2")
    disks = [open_disk(path, readonly=True) for _ in range(2)]

    assert [disk.readonly for disk in disks] == [True, True]
    for disk in disks:
        disk.close()


def test_corrupt_image_is_one_sentence_with_qemus_reason(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    # Right as far as pyvmm looks: the table that it begins with lies beyond what a file can have.
    head = b"QFI\xfb\0\0\0\3" + bytes(12) + b"\0\0\0\x10" + b"\xff" * 8 + bytes(4)
    path.write_bytes((head + b"\xff" * 36 + bytes(28) + b"\0\0\0\x68").ljust(1024, b"\0"))

    with pytest.raises(DiskError, match="cannot be opened as qcow2: qemu-nbd says: ") as raised:
        open_disk(str(path))

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_snapshot_leaves_the_image_as_it_was(tmp_path: Path, format: str) -> None:
    path = make(tmp_path / f"disk.{format}", format)
    before = Path(path).read_bytes()

    disk = open_disk(path, snapshot=True)
    disk.write([memoryview(b"x" * 4096)], 0, 4096, True)
    other = open_disk(path, snapshot=True)
    seen = content(disk, 0, 4096), content(other, 0, 4096)
    disk.close()
    other.close()

    assert seen == (b"x" * 4096, bytes(4096))
    assert Path(path).read_bytes() == before


def test_killed_vmm_leaves_no_server_and_no_lock(tmp_path: Path) -> None:
    path = make(tmp_path / "disk.qcow2", "qcow2")
    program = (
        "import sys, signal; from pyvmm.backends.disk.image import open_disk\n"
        "disk = open_disk(sys.argv[1]); print(disk._process.pid, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        server = int(holder.stdout.readline())
        holder.send_signal(signal.SIGKILL)

    limit = time.monotonic() + 30
    while Path(f"/proc/{server}/exe").exists():
        assert time.monotonic() < limit, f"qemu-nbd ({server}) has outlived its client"
        time.sleep(0.01)
    open_disk(path).close()


def test_server_that_dies_is_an_io_error_for_every_request(tmp_path: Path) -> None:
    disk = open_disk(make(tmp_path / "disk.qcow2", "qcow2"))
    [server] = children("qemu-nbd")
    os.kill(server, signal.SIGKILL)

    for _ in range(2):
        with pytest.raises(OSError):
            content(disk, 0, 512)
    disk.close()


def test_server_has_nothing_of_this_process_but_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "of the user's")
    path = make(tmp_path / "disk.qcow2", "qcow2")
    mine = os.memfd_create("of-the-users")
    os.set_inheritable(mine, True)

    disk = open_disk(path)
    [server] = children("qemu-nbd")
    environment = Path(f"/proc/{server}/environ").read_bytes()
    held = [os.readlink(link) for link in Path(f"/proc/{server}/fd").iterdir()]
    disk.close()
    os.close(mine)

    assert b"SECRET_TOKEN" not in environment
    assert path in held
    assert not [name for name in held if "of-the-users" in name]


def test_backing_file_is_read_through(tmp_path: Path) -> None:
    base = make(tmp_path / "base.raw", "raw")
    Path(base).write_bytes(b"base".ljust(SIZE, b"."))
    path = make(tmp_path / "top.qcow2", "qcow2", "-b", base, "-F", "raw")

    disk = open_disk(path, backing=[base])
    head = content(disk, 0, 512)
    disk.close()

    assert head == b"base".ljust(512, b".")
    assert (
        json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", path]))["format"] == "qcow2"
    )


def test_snapshot_of_a_raw_image_that_ends_within_a_sector_has_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "odd.img"
    path.write_bytes(b"x" * 1300)

    disk = open_disk(str(path), snapshot=True)
    last = content(disk, 1024, 512)
    disk.close()

    assert (disk.size, last) == (1536, (b"x" * 276).ljust(512, b"\0"))


def test_blocks_of_a_size_that_the_image_is_no_multiple_of_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "disk.qcow2", "qcow2")
    subprocess.run(["qemu-img", "resize", "-q", path, "+512"], check=True)

    with pytest.raises(DiskError, match="no multiple of 4096"):
        open_disk(path, block_size=4096)


@pytest.mark.skipif(not landlock.abi(), reason="this kernel has no Landlock")
def test_data_file_that_is_named_after_the_check_is_out_of_reach(tmp_path: Path) -> None:
    named = tmp_path / "data"
    other = make(tmp_path / "other.qcow2", "qcow2", "-o", f"data_file={named},data_file_raw=on")
    named.write_bytes(b"secret".ljust(SIZE, b"\0"))
    path = make(tmp_path / "disk.qcow2", "qcow2")
    chain = ImageChain(path, "qcow2", ())
    Path(path).write_bytes(Path(other).read_bytes())  # who has the image open for writing

    try:
        with pytest.raises(DiskError, match="Permission denied"):
            QemuDisk(chain, readonly=False, direct=False, snapshot=False)
    finally:
        chain.close()
    assert named.read_bytes()[:6] == b"secret"
