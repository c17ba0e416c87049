"""An image is used by many readers or by one writer, here and in QEMU."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.backends.disk.base import DiskError
from pyvmm.backends.disk.raw import RawDisk


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return str(path)


def test_writer_when_another_writes_is_refused_in_one_sentence(image: str) -> None:
    first = RawDisk(image)

    with pytest.raises(DiskError, match="is in use by another process; end that") as raised:
        RawDisk(image)

    first.close()
    assert image in str(raised.value) and "\n" not in str(raised.value)


def test_reader_when_another_writes_is_refused(image: str) -> None:
    first = RawDisk(image)

    with pytest.raises(DiskError, match="is being written to"):
        RawDisk(image, readonly=True)

    first.close()


def test_writer_when_another_reads_is_refused(image: str) -> None:
    first = RawDisk(image, readonly=True)

    with pytest.raises(DiskError, match="is in use"):
        RawDisk(image)

    first.close()


def test_readers_share_an_image(image: str) -> None:
    disks = [RawDisk(image, readonly=True) for _ in range(3)]

    assert [disk.size for disk in disks] == [1 << 20] * 3
    for disk in disks:
        disk.close()


def test_writer_when_the_last_has_closed_gets_the_image(image: str) -> None:
    RawDisk(image).close()

    RawDisk(image).close()


def test_lock_when_its_process_is_killed_is_gone(image: str) -> None:
    program = (
        "import sys, signal; from pyvmm.backends.disk.raw import RawDisk\n"
        "disk = RawDisk(sys.argv[1]); print('open', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program, image], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(DiskError):
            RawDisk(image)
        holder.send_signal(signal.SIGKILL)

    RawDisk(image).close()


def test_lock_is_not_inherited_by_programs_we_start(image: str) -> None:
    disk = RawDisk(image)
    with subprocess.Popen(["sleep", "60"]) as child:
        disk.close()

        RawDisk(image).close()

        child.kill()


@pytest.mark.skipif(not shutil.which("qemu-io"), reason="qemu-utils is not installed")
def test_qemu_respects_the_lock_and_holds_one_we_respect(image: str) -> None:
    disk = RawDisk(image)
    refused = subprocess.run(
        ["qemu-io", "-f", "raw", "-c", "read 0 512", image], capture_output=True, text=True, check=False
    )
    disk.close()
    with subprocess.Popen(
        ["qemu-io", "-f", "raw", image], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ}
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdin.write(b"read 0 512\n")
        holder.stdin.flush()
        assert b"read" in holder.stdout.readline()
        with pytest.raises(DiskError, match="is in use"):
            RawDisk(image)

    assert refused.returncode != 0 and "lock" in refused.stderr
