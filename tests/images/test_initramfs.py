"""What the initramfs holds, and that our init is the one built from its sources."""

from __future__ import annotations

import stat
import subprocess

import pytest

from pyvmm.images import cpio, initramfs
from pyvmm.images.modules import Module
from tests.support.exec_link import INIT
from tests.support.guest_files import BUSYBOX


def entries(data):
    return {entry.path: entry for entry in cpio.read(data)}


def test_initramfs_has_init_busybox_and_its_commands():
    made = entries(initramfs.build(b"INIT", BUSYBOX))
    assert (made["init"].data, made["init"].mode & 0o777) == (b"INIT", 0o755)
    assert made["bin/busybox"].data == BUSYBOX
    assert made["bin/sh"].data == b"busybox"
    assert stat.S_ISLNK(made["bin/umount"].mode)
    assert made["dev/console"].device == (5, 1)
    assert {"proc", "sys", "run", "tmp"} <= made.keys()


def test_modules_are_listed_in_load_order():
    modules = [Module("b", "lib/modules/6.1/b.ko", b"B"), Module("a", "lib/modules/6.1/a.ko", b"A")]
    made = entries(initramfs.build(b"", BUSYBOX, modules=modules))
    assert made["etc/pyvmm/modules"].data == b"/lib/modules/6.1/b.ko\n/lib/modules/6.1/a.ko\n"
    assert made["lib/modules/6.1/a.ko"].data == b"A"


def test_given_files_win():
    made = entries(
        initramfs.build(b"", BUSYBOX, files=[cpio.file("etc/passwd", b"mine"), cpio.file("opt/x/y", b"1")])
    )
    assert made["etc/passwd"].data == b"mine"
    assert stat.S_ISDIR(made["opt/x"].mode)


def test_modules_on_demand_are_listed_by_alias_and_loaded_by_the_kernels_program():
    both = [Module("b", "lib/b.ko", b"B"), Module("a", "lib/a.ko", b"A")]
    files = initramfs.on_demand({"fs-x": both, "fs-y": both[:1], "fs-builtin": []}, "bin/modprobe")
    made = entries(initramfs.build(b"", BUSYBOX, files=files))
    assert made["etc/pyvmm/lazy/fs-x"].data == b"/lib/b.ko\n/lib/a.ko\n"
    assert made["etc/pyvmm/lazy/fs-y"].data == b"/lib/b.ko\n"
    assert "etc/pyvmm/lazy/fs-builtin" not in made
    assert (made["lib/a.ko"].data, made["bin/modprobe"].mode & 0o777) == (b"A", 0o755)


def test_modules_on_demand_when_all_are_built_in_are_nothing():
    assert initramfs.on_demand({"fs-x": []}, "bin/modprobe") == []


@pytest.mark.parametrize("program", [b"", b"\0[\0[[\0", b"\0[\0[[\0zcat\0sh\0\0", b"no table"])
def test_busybox_without_a_table_of_commands_is_refused(program):
    with pytest.raises(initramfs.InitramfsError):
        initramfs.applets(program)


def test_overlay_holds_init_where_the_command_line_says():
    made = entries(initramfs.exec_overlay())
    assert made[initramfs.OVERLAY_INIT[1:]].data == initramfs.init_program()
    assert list(made) == [".pyvmm", ".pyvmm/init"]


def test_init_when_started_as_a_command_says_what_it_is():
    done = subprocess.run([INIT / "pyvmm-init.x86_64"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "pyvmm-init: this is the first process of a guest, not a command\n",
    )
