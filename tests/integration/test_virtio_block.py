"""Disks of Debian's stock kernel: by its virtio_blk driver, with ext4 on them."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.disk_guest import LIMIT, check, command, expected, ext4, files, tool
from tests.support.native import volume

pytestmark = [pytest.mark.hw, pytest.mark.timeout(2 * LIMIT)]

FILES = volume(1000)
FEW = volume(200)
#: What an image that ends within a sector has after its 8 MiB.
END = b"the end"
ODD = 15 * len(END)
HESITANT = Path(__file__).parents[1] / "support" / "hesitant_disk.py"


@pytest.fixture(scope="module")
def initrd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tool(tmp_path_factory.mktemp("tool"))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """In memory: on a host of one CPU the vCPUs carry out requests themselves."""
    with TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def partitioned(path: Path) -> None:
    """An image with a partition of 32 blocks from block 16 on, whatever a block is, and an odd size."""
    entry = struct.pack("<B3sB3sII", 0, bytes(3), 0x83, bytes(3), 16, 32)
    with open(path, "wb") as file:
        file.write(bytes(446) + entry + bytes(48) + b"\x55\xaa")
        file.seek(8 << 20)
        file.write(END * (ODD // len(END)))


@pytest.fixture(scope="module")
def said(initrd: Path, folder: Path) -> dict[str, list[str]]:
    """One guest with seven disks that does everything; its words by section. The images lie in *folder*.

    A device of a user's comes first: the hesitant disk is vda.
    """
    ext4(folder / "files")
    ext4(folder / "readonly")
    ext4(folder / "hesitant", "16M")
    partitioned(folder / "table")
    (folder / "raw").write_bytes(os.urandom(32 << 20))
    os.truncate(folder / "raw", 32 << 20)
    subprocess.run(["truncate", "-s", "16M", folder / "load"], check=True)
    script = f"""
        section() {{ echo "== $1"; }}
        mkdir -p /m /r
        section serial; cat /sys/block/vdb/serial
        section queues; ls /sys/block/vdb/mq | wc -l; ls /sys/block/vdc/mq | wc -l
        section sectors; cat /sys/block/vdb/size /sys/block/vdb/queue/logical_block_size
        section caches; cat /sys/block/vdb/queue/write_cache /sys/block/vdd/queue/write_cache
        section switch; echo "write through" > /sys/block/vdb/cache_type; cat /sys/block/vdb/queue/write_cache
        section files; mount -t ext4 /dev/vdb /m; disk files /m/made {FILES} | tail -n 1; umount /m
        section readonly; cat /sys/block/vdc/ro; mount -t ext4 -o ro /dev/vdc /r && ls /r; umount /r
        dd if=/dev/zero of=/dev/vdc bs=512 count=1 2>&1 | grep -c 'can.t open\\|not permitted\\|Read-only'
        section blocks
        for disk in vdf vdg; do (
            cd /sys/block/$disk
            echo $(cat size queue/logical_block_size $disk"1"/start $disk"1"/size)
            dd if=/dev/$disk bs=4096 skip=2048 2>/dev/null | md5sum
        ); done
        section discard; disk discard /dev/vdd && sync && echo done
        section load
        name=$(basename $(readlink /sys/block/vde/device))
        cd /sys/bus/virtio/drivers/virtio_blk
        for turn in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
            disk read /dev/vde 4096 4 60000 random >/dev/null 2>&1 &
            disk write /dev/vde 65536 2 60000 sequential >/dev/null 2>&1 &
            usleep 50000
            echo $name > unbind; wait; echo $name > bind
            while [ ! -b /dev/vde ]; do usleep 10000; done
        done
        cd /; disk write /dev/vde 65536 1 100 sequential > /dev/null && echo works
        section hesitant
        mount -t ext4 /dev/vda /m; disk files /m/made {FEW} | tail -n 1; umount /m
        disk read /dev/vda 4096 4 300 random > /dev/null && echo works
        section end
    """
    names = ("files,serial=pyvmm-disk-1,queues=2", "readonly,ro", "raw,cache=writethrough", "load")
    names += ("table,ro", "table,ro,block-size=4096")
    disks = [word for name in names for word in ("--disk", str(folder / name))]
    options = ("--cpus", "2", *disks, "--device", f"{HESITANT}:HesitantDisk,path={folder / 'hesitant'}")
    done = subprocess.run(
        command(initrd, script, *options), capture_output=True, text=True, timeout=LIMIT + 20
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    sections = {part.splitlines()[0]: part.splitlines()[1:] for part in done.stdout.split("== ")[1:]}
    return {**sections, "stderr": done.stderr.splitlines()}


def test_guest_came_to_the_end_without_a_complaint(said: dict[str, list[str]]) -> None:
    assert "end" in said
    assert said["stderr"] == []


def test_serial_is_in_sysfs(said: dict[str, list[str]]) -> None:
    assert said["serial"] == ["pyvmm-disk-1"]


def test_two_queues_are_used_and_one_where_nothing_was_said(said: dict[str, list[str]]) -> None:
    assert said["queues"] == ["2", "1"]


def test_size_is_the_images(said: dict[str, list[str]]) -> None:
    assert said["sectors"] == [str((64 << 20) // 512), "512"]


def test_partition_table_is_read_in_blocks_of_the_size_asked_for_and_the_last_one_is_whole(
    said: dict[str, list[str]],
) -> None:
    def seen(sectors: int, block: int) -> list[str]:
        unit = block // 512
        last = (END * (ODD // len(END))).ljust(sectors * 512 - (8 << 20), b"\0")
        return [f"{sectors} {block} {16 * unit} {32 * unit}", f"{hashlib.md5(last).hexdigest()}  -"]

    assert said["blocks"] == [*seen(16384 + 1, 512), *seen(16384 + 8, 4096)]


def test_cache_is_the_one_asked_for_and_the_guest_can_switch_it(said: dict[str, list[str]]) -> None:
    assert said["caches"] == ["write back", "write through"]
    assert said["switch"] == ["write through"]


@pytest.mark.parametrize(("image", "count", "after"), [("files", FILES, []), ("hesitant", FEW, ["works"])])
def test_files_that_the_guest_made_are_on_the_image(
    said: dict[str, list[str]], folder: Path, tmp_path: Path, image: str, count: int, after: list[str]
) -> None:
    check(folder / image)
    found = files(folder / image, "made", tmp_path / "dump")

    assert said[image] == [str(count - 1), *after]
    assert sorted(found) == list(range(count))
    assert [number for number, data in found.items() if data != expected(number)] == []


def test_readonly_disk_is_mounted_and_not_written(said: dict[str, list[str]]) -> None:
    assert said["readonly"] == ["1", "lost+found", "1"]


def test_discard_makes_the_image_sparse(said: dict[str, list[str]], folder: Path) -> None:
    status = (folder / "raw").stat()

    assert said["discard"] == ["done"]
    assert (status.st_size, status.st_blocks) == (32 << 20, 0)


def test_driver_bound_again_and_again_under_load_still_works(said: dict[str, list[str]]) -> None:
    assert said["load"] == ["works"]
