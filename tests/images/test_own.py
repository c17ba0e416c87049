"""Guests with other kernels than Debian's package: their initramfs, its cache, and what is told of it."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path

import pytest

from pyvmm.arch import native
from pyvmm.config import Config
from pyvmm.errors import ConfigError
from pyvmm.images import cpio, debian, own
from pyvmm.images.busybox import find_busybox
from pyvmm.images.cache import directory
from pyvmm.images.default import DEFAULT_MODULES, POWER_BUTTON
from pyvmm.images.default_or_host import default_or_host_guest
from pyvmm.images.host_kernel import host_kernel
from pyvmm.images.modules import ModuleError, ModuleTree
from pyvmm.images.release import KernelFileError
from pyvmm.machine.boot_files import with_boot_files
from tests.support.guest_files import module_file
from tests.support.host_layouts import RUNNING, put_kernel, put_modules, put_stock_modules
from tests.support.images import elf

TABLE = b"\0[\0[[\0cat\0sh\0umount\0\0"
EM = {"amd64": 62, "arm64": 183}[native.DEBIAN]
STATIC = elf([(0, TABLE, len(TABLE))], 0, machine=EM)
ALL = (POWER_BUTTON[native.DEBIAN], *DEFAULT_MODULES)


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only programs of this host; busybox is among them. There is no apt-get, and the cache is empty."""
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pyvmm.images.busybox.MORE_PATH", "")
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    (folder / "busybox").write_bytes(STATIC)
    return folder


def entries(initrd: str) -> dict[str, cpio.CpioEntry]:
    return {entry.path: entry for entry in cpio.read(Path(initrd).read_bytes())}


def modules(initrd: str) -> list[str]:
    return [os.path.basename(line) for line in entries(initrd)["etc/pyvmm/modules"].data.decode().split()]


def whole(**changed: list[str]) -> dict[str, list[str]]:
    return {**{name: [] for name in ALL}, **changed}


def test_guest_of_an_image_has_our_init_busybox_and_the_modules_after_what_they_need(tmp_path: Path) -> None:
    image = put_kernel(tmp_path / "vmlinuz")
    put_modules(tmp_path / RUNNING, whole(virtio_net=["failover"], failover=[]))

    guest = own.image_guest(str(image), str(tmp_path))

    assert (guest.kernel, guest.release, guest.missing, guest.has_programs) == (str(image), RUNNING, (), True)
    made = entries(guest.initrd)
    assert made["bin/busybox"].data == STATIC
    assert made["bin/sh"].data == b"busybox"
    assert "init" in made
    order = modules(guest.initrd)
    assert set(order) == {f"{name}.ko" for name in (*ALL, "failover")}
    assert order.index("failover.ko") < order.index("virtio_net.ko")


@pytest.mark.net
def test_stock_modules_that_were_compressed_are_in_the_guest_as_the_kernel_loads_them(tmp_path: Path) -> None:
    cache, path = os.environ.pop("PYVMM_CACHE"), os.environ["PATH"]
    os.environ["PATH"] = os.defpath
    try:
        image = put_stock_modules(tmp_path / "modules")
        stock = debian.package("linux-image-cloud-amd64" if EM == 62 else "linux-image-arm64", native.DEBIAN)
    except debian.PackageError as error:
        pytest.skip(str(error))
    finally:
        os.environ |= {"PYVMM_CACHE": cache, "PATH": path}

    guest = own.image_guest(image, str(tmp_path / "modules"))

    assert guest.missing == ()
    made = entries(guest.initrd)
    want = ModuleTree(stock.root, guest.release).load_order(list(ALL))
    # Each name's needs stand before it; the order of the names is the same.
    assert made["etc/pyvmm/modules"].data.decode().split() == [f"/{module.path}" for module in want]
    assert all(made[module.path].data == module.data for module in want)
    assert f"lib/modules/{guest.release}" in made


def test_guest_of_a_tree_has_its_image_and_what_was_built(tmp_path: Path) -> None:
    name = "arch/x86/boot/bzImage" if native.DEBIAN == "amd64" else "arch/arm64/boot/Image"
    image = put_kernel(tmp_path / name)
    (tmp_path / "include/config").mkdir(parents=True)
    (tmp_path / "include/config/kernel.release").write_text(f"{RUNNING}\n")
    (tmp_path / "virtio_blk.ko").write_bytes(module_file([]))
    (tmp_path / "modules.order").write_text("virtio_blk.o\n")
    (tmp_path / "modules.builtin").write_text("kernel/virtio_mmio.ko\n")

    guest = own.tree_guest(str(tmp_path))

    assert (guest.kernel, guest.release) == (str(image), RUNNING)
    assert modules(guest.initrd) == ["virtio_blk.ko"]
    assert "virtio_net" in guest.missing
    assert not {"virtio_blk", "virtio_mmio"} & set(guest.missing)
    with pytest.raises(ConfigError, match=r"modules: the kernel .* is a directory"):
        own.image_guest(str(tmp_path), str(tmp_path))


def test_tree_without_an_image_says_what_to_build_and_other_directories_that_they_are_none(
    tmp_path: Path,
) -> None:
    with pytest.raises(KernelFileError, match="is a directory and no kernel tree"):
        own.tree_guest(str(tmp_path))
    for name in ("Kbuild", "Makefile", "arch"):
        (tmp_path / name).mkdir()
    with pytest.raises(KernelFileError, match=r"has no arch/.*; build it there with `make (bzImage|Image)`"):
        own.tree_guest(str(tmp_path))


def test_module_that_needs_one_which_is_missing_is_left_out_and_the_others_are_there(tmp_path: Path) -> None:
    image = put_kernel(tmp_path / "vmlinuz")
    put_modules(tmp_path / RUNNING, {"virtio_net": ["gone"], "virtio_blk": []}, builtin=("evdev",))

    guest = own.image_guest(str(image), str(tmp_path))

    assert modules(guest.initrd) == ["virtio_blk.ko"]
    assert set(guest.missing) == {*ALL} - {"virtio_blk", "evdev"}
    assert own.image_guest(str(image), str(tmp_path)).missing == guest.missing


def test_guest_without_a_busybox_has_our_init_alone_and_all_modules_from_the_start(
    tmp_path: Path, programs: Path
) -> None:
    (programs / "busybox").unlink()
    image = put_kernel(tmp_path / "vmlinuz")
    put_modules(tmp_path / RUNNING, whole(ext4=["jbd2"], jbd2=[]))

    guest = own.image_guest(str(image), str(tmp_path))

    assert not guest.has_programs
    assert not [path for path in entries(guest.initrd) if path.startswith("bin/")]
    assert modules(guest.initrd)[-2:] == ["jbd2.ko", "ext4.ko"]


def test_initramfs_is_made_anew_when_a_module_has_changed_and_few_are_kept(tmp_path: Path) -> None:
    image = put_kernel(tmp_path / "vmlinuz")
    folder = put_modules(tmp_path / RUNNING, whole())
    first = own.image_guest(str(image), str(tmp_path)).initrd
    made = os.stat(first).st_ino

    assert own.image_guest(str(image), str(tmp_path)).initrd == first
    assert os.stat(first).st_ino == made
    for seconds in range(12):
        os.utime(folder / "kernel/drivers/virtio_blk.ko", (seconds, seconds))
        last = own.image_guest(str(image), str(tmp_path)).initrd
        assert last != first
    kept = list((directory() / "initramfs").glob("own-*"))
    assert len(kept) == 8
    assert Path(last).parent in kept


# Through the configuration


def test_config_gets_files_in_place_of_words_and_its_own_initrd_comes_last(tmp_path: Path) -> None:
    image = put_kernel(tmp_path / "vmlinuz")
    put_modules(tmp_path / RUNNING, whole())
    asked = Config(kernel=str(image), modules=str(tmp_path), initrd="mine", cpus=2)

    made = with_boot_files(asked)

    assert (made.kernel, made.modules, made.cpus) == (str(image), None, 2)
    assert made.initrd[1:] == ("mine",)
    assert "init" in entries(made.initrd[0])
    assert with_boot_files(made) is made


def test_what_the_kernel_lacks_is_reported_for_the_devices_that_are_asked_for(
    tmp_path: Path, programs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (programs / "busybox").unlink()
    image = put_kernel(tmp_path / "vmlinuz")
    put_modules(tmp_path / RUNNING, {"virtio_blk": []}, builtin=("virtio_mmio",))
    asked = Config(kernel=str(image), modules=str(tmp_path), disk="d", share="s", rng=True)

    with caplog.at_level(logging.WARNING):
        with_boot_files(asked)

    said = [record.getMessage() for record in caplog.records]
    assert f"kernel {RUNNING} has no module virtiofs: share will not work" in said
    assert f"kernel {RUNNING} has no module virtio_rng: rng will not work" in said
    assert sum("has no module" in line for line in said) == 2
    assert "the guest has our init alone" in said[-1]


def test_host_without_apt_gets_its_own_kernel_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(own, "host_kernel", partial(host_kernel, tmp_path, RUNNING))
    with pytest.raises(
        debian.NoPackageError, match=r"no apt-get here; .* Nor can the host's kernel be taken: "
    ):
        default_or_host_guest()
    image = put_kernel(tmp_path / f"boot/vmlinuz-{RUNNING}")
    put_modules(tmp_path / "lib/modules" / RUNNING, whole())

    with caplog.at_level(logging.INFO):
        guest = default_or_host_guest()

    assert guest.kernel == str(image)
    assert caplog.records[-1].getMessage().endswith(f"this host's own kernel {RUNNING}")


def test_modules_of_another_kernel_stop_the_guest(tmp_path: Path) -> None:
    image = put_kernel(tmp_path / "vmlinuz")
    folder = put_modules(tmp_path / RUNNING, whole())
    (folder / "kernel/drivers/evdev.ko").write_bytes(module_file([], vermagic="5.0 SMP"))

    with pytest.raises(ModuleError, match=r"is a module of kernel 5\.0"):
        own.image_guest(str(image), str(tmp_path))


# busybox


@pytest.mark.parametrize(
    ("program", "usable"),
    [
        (STATIC, True),
        (elf([(0, TABLE, len(TABLE))], 0, machine=EM, extra=[3]), False),  # PT_INTERP
        (elf([(0, TABLE, len(TABLE))], 0, machine=40), False),  # 32-bit ARM
        (elf([(0, b"none", 4)], 0, machine=EM), False),
        (b"#!/bin/sh\n" + TABLE, False),
        (b"", False),
    ],
)
def test_busybox_is_taken_when_it_is_static_and_of_this_architecture(
    programs: Path, program: bytes, usable: bool
) -> None:
    (programs / "busybox").write_bytes(program)

    assert find_busybox() == (str(programs / "busybox") if usable else None)


def test_busybox_that_is_damaged_anywhere_in_its_headers_is_taken_or_not(programs: Path) -> None:
    for at in range(120):
        (programs / "busybox").write_bytes(STATIC[:at] + b"\xff" + STATIC[at + 1 :])
        find_busybox()


def test_static_busybox_beside_a_dynamic_one_is_found(programs: Path) -> None:
    (programs / "busybox").write_bytes(elf([(0, TABLE, len(TABLE))], 0, machine=EM, extra=[3]))
    (programs / "busybox.static").write_bytes(STATIC)

    assert find_busybox() == str(programs / "busybox.static")
