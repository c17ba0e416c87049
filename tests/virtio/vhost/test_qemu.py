"""Our devices under QEMU: its vhost-user front end, Debian's stock kernel, our back end."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.images import debian
from pyvmm.images.default import default_guest
from pyvmm.images.initramfs import build, busybox_program
from pyvmm.images.modules import ModuleTree
from tests.support.device_process import served

#: Seconds a boot gets; without help of the processor it takes 10.
LIMIT = 150
pytestmark = [
    pytest.mark.net,
    pytest.mark.timeout(LIMIT + 60),
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="there is no qemu-system-x86_64"),
]

INIT = """#!/bin/sh
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for module in $(cat /etc/pyvmm/modules); do insmod $module; done
exec >/dev/ttyS0 2>&1
{script}
echo over
poweroff -f
"""


def run(tmp_path: Path, modules: list[str], script: str, *options: str) -> str:
    """What *script* says in a guest of QEMU's."""
    guest = default_guest()
    tree = ModuleTree(debian.package("linux-image-cloud-amd64").root, guest.release)
    busybox = busybox_program(debian.package("busybox-static"))
    init = INIT.format(script=script).encode()
    initrd = tmp_path / "initrd"
    initrd.write_bytes(
        build(init, busybox, modules=tree.load_order(["virtio_pci", *modules])),
    )
    done = subprocess.run(
        [
            *("qemu-system-x86_64", "-M", "q35,memory-backend=ram", "-accel", "tcg", "-cpu", "max"),
            *("-m", "256", "-object", "memory-backend-memfd,id=ram,size=256M,share=on"),
            *("-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"),
            *("-kernel", guest.kernel, "-initrd", str(initrd)),
            *("-append", "console=ttyS0 quiet panic=-1 mitigations=off"),
            *options,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LIMIT,
        check=False,
    )
    text = done.stdout.decode(errors="replace").replace("\r", "")
    assert "over\n" in text, text
    return text


def test_entropy_device_when_qemu_is_the_front_end_feeds_the_guests_driver(tmp_path: Path) -> None:
    path = tmp_path / "s"
    script = """
    cat /sys/class/misc/hw_random/rng_current
    dd if=/dev/hwrng bs=512 count=64 2>/dev/null | wc -c
    echo virtio0 > /sys/bus/virtio/drivers/virtio_rng/unbind
    echo virtio0 > /sys/bus/virtio/drivers/virtio_rng/bind
    dd if=/dev/hwrng bs=512 count=2 2>/dev/null | wc -c
    """
    with served("rng", path=path):
        chardev = ("-chardev", f"socket,id=c,path={path}")
        text = run(tmp_path, ["virtio_rng"], script, *chardev, "-device", "vhost-user-rng-pci,chardev=c")

    assert "virtio_rng.0\n32768\n1024\n" in text


def test_disk_when_qemu_is_the_front_end_keeps_what_the_guest_writes(tmp_path: Path) -> None:
    path, image = tmp_path / "s", tmp_path / "disk"
    image.write_bytes(bytes(8 << 20))
    script = """
    cat /sys/block/vda/size
    yes 0123456789abcde | dd of=/dev/vda bs=64k count=100 iflag=fullblock conv=fsync 2>/dev/null
    dd if=/dev/vda bs=64k count=100 2>/dev/null | md5sum
    """
    with served(f"disk={image}", path=path):
        chardev = ("-chardev", f"socket,id=c,path={path}")
        text = run(tmp_path, ["virtio_blk"], script, *chardev, "-device", "vhost-user-blk-pci,chardev=c")

    wanted = b"0123456789abcde\n" * (100 << 12)
    assert f"16384\n{hashlib.md5(wanted).hexdigest()}" in text
    assert image.read_bytes() == wanted + bytes((8 << 20) - len(wanted))
