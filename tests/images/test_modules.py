"""Modules are found whatever their packing, and loaded after what they need."""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess

import pytest
import zstandard

from pyvmm.images.modules import ModuleError, ModuleTree
from tests.support.guest_files import module_file
from tests.support.require import unavailable

PACKERS = {
    ".ko": bytes,
    ".ko.xz": lzma.compress,
    ".ko.gz": gzip.compress,
    ".ko.zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def make_tree(root, modules, packing=".ko", builtin=(), base="lib/modules"):
    folder = root / base / "6.1"
    (folder / "kernel/drivers").mkdir(parents=True)
    for name, depends in modules.items():
        (folder / "kernel/drivers" / f"{name}{packing}").write_bytes(PACKERS[packing](module_file(depends)))
    (folder / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in builtin))
    return ModuleTree(root, "6.1")


VIRTIO = {
    "virtio_net": ["net_failover", "virtio"],
    "net_failover": ["failover"],
    "failover": [],
    "virtio": [],
}


@pytest.mark.parametrize("packing", PACKERS)
def test_modules_when_they_depend_come_after_what_they_need(tmp_path, packing):
    tree = make_tree(tmp_path, VIRTIO, packing)
    modules = tree.load_order(["virtio_net", "virtio"])
    assert [module.name for module in modules] == ["failover", "net_failover", "virtio", "virtio_net"]
    assert modules[0].path == "lib/modules/6.1/kernel/drivers/failover.ko"
    assert modules[0].data == module_file([])


def test_modules_when_built_in_are_left_out(tmp_path):
    tree = make_tree(tmp_path, {"net": ["core-part"]}, builtin=["core_part", "serial-8250"])
    assert [module.name for module in tree.load_order(["serial_8250", "net"])] == ["net"]
    assert tree.is_builtin("serial-8250")


def test_names_with_dash_and_underscore_are_the_same(tmp_path):
    tree = make_tree(tmp_path, {"virtio-rng": []})
    assert [module.path for module in tree.load_order(["virtio_rng"])] == [
        "lib/modules/6.1/kernel/drivers/virtio-rng.ko"
    ]


def test_tree_when_below_usr_is_found(tmp_path):
    tree = make_tree(tmp_path, {"a": []}, base="usr/lib/modules")
    assert tree.names == ["a"]


def test_module_when_missing_is_named_with_who_needs_it(tmp_path):
    tree = make_tree(tmp_path, {"a": ["b"]})
    with pytest.raises(ModuleError, match="no module b, which a needs"):
        tree.load_order(["a"])


def test_modules_when_they_need_each_other_are_refused(tmp_path):
    tree = make_tree(tmp_path, {"a": ["b"], "b": ["a"]})
    with pytest.raises(ModuleError, match="need each other"):
        tree.load_order(["a"])


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"text" * 100])
def test_module_when_no_elf_is_refused(tmp_path, data):
    tree = make_tree(tmp_path, {"a": []})
    (tmp_path / "lib/modules/6.1/kernel/drivers/a.ko").write_bytes(data)
    with pytest.raises(ModuleError, match="no kernel module"):
        tree.load_order(["a"])


def test_tree_when_the_release_is_not_there_says_so(tmp_path):
    with pytest.raises(ModuleError, match="no modules of kernel 9"):
        ModuleTree(tmp_path, "9")


@pytest.mark.parametrize("place", [".", "lib", "lib/modules", "lib/modules/6.1"])
def test_modules_are_found_from_the_root_down_to_their_own_folder(tmp_path, place):
    make_tree(tmp_path, {"a": []})
    root = tmp_path / ("usr" if place == "lib" else place)
    if place == "lib":
        (tmp_path / "usr").mkdir()
        (tmp_path / "lib").rename(tmp_path / "usr/lib")
    assert [module.path for module in ModuleTree(root, "6.1").load_order(["a"])] == [
        "lib/modules/6.1/kernel/drivers/a.ko"
    ]


def test_flat_folder_of_modules_is_enough(tmp_path):
    (tmp_path / "a.ko").write_bytes(module_file([]))
    assert ModuleTree(tmp_path, "6.1").names == ["a"]


def test_folder_with_the_modules_of_other_kernels_names_them(tmp_path):
    make_tree(tmp_path, {"a": []})
    with pytest.raises(ModuleError, match=r"no modules of kernel 9 below .*; it has those of 6\.1$"):
        ModuleTree(tmp_path, "9")


def test_module_of_another_kernel_is_refused(tmp_path):
    make_tree(tmp_path, {})
    path = tmp_path / "lib/modules/6.1/kernel/a.ko"
    path.write_bytes(module_file([], vermagic="6.0-rc1 SMP preempt mod_unload"))
    with pytest.raises(ModuleError, match=r"a\.ko is a module of kernel 6\.0-rc1, and the kernel is 6\.1"):
        ModuleTree(tmp_path, "6.1").load_order(["a"])


def test_list_of_depmod_decides_which_file_has_a_name(tmp_path):
    make_tree(tmp_path, {"a": ["b"], "b": []})
    folder = tmp_path / "lib/modules/6.1"
    (folder / "updates").mkdir()
    (folder / "updates/a.ko").write_bytes(module_file([]))
    (folder / "modules.dep").write_text("updates/a.ko:\nkernel/drivers/b.ko:\n")
    assert [module.path for module in ModuleTree(tmp_path, "6.1").load_order(["a"])] == [
        "lib/modules/6.1/updates/a.ko"
    ]


@pytest.mark.parametrize("packing", [".ko.xz", ".ko.gz", ".ko.zst"])
@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"no" + data[2:], lambda data: b""])
def test_module_that_does_not_unpack_is_refused(tmp_path, packing, damage):
    tree = make_tree(tmp_path, {"a": []}, packing)
    path = tmp_path / f"lib/modules/6.1/kernel/drivers/a{packing}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModuleError, match=r"does not unpack: .*; the file is damaged"):
        tree.load_order(["a"])


def test_module_that_is_listed_and_gone_is_told(tmp_path):
    tree = make_tree(tmp_path, {"a": []})
    (tmp_path / "lib/modules/6.1/kernel/drivers/a.ko").unlink()
    with pytest.raises(ModuleError, match="cannot be read: No such file"):
        tree.load_order(["a"])


@pytest.mark.parametrize(
    "line", ["kernel/drivers/virtio/virtio.ko", "drivers/virtio/virtio.ko", "drivers/virtio/virtio.o"]
)
def test_kernel_tree_lists_the_modules_that_were_built(tmp_path, line):
    (tmp_path / "include/config").mkdir(parents=True)
    (tmp_path / "include/config/kernel.release").write_text("6.1\n")
    (tmp_path / "drivers/virtio").mkdir(parents=True)
    (tmp_path / "drivers/virtio/virtio.ko").write_bytes(module_file([]))
    (tmp_path / "drivers/virtio/old.ko").write_bytes(module_file([]))
    (tmp_path / "modules.order").write_text(f"{line}\ndrivers/gone.ko\n")
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio_mmio.ko\n")
    tree = ModuleTree(tmp_path, "6.1")
    assert tree.names == ["virtio"]
    assert tree.has("virtio_mmio") and not tree.has("old")
    assert [module.path for module in tree.load_order(["virtio"])] == [
        "lib/modules/6.1/drivers/virtio/virtio.ko"
    ]


def test_kernel_tree_without_modules_has_what_is_built_in(tmp_path):
    (tmp_path / "include/config").mkdir(parents=True)
    (tmp_path / "include/config/kernel.release").write_text("6.1\n")
    tree = ModuleTree(tmp_path, "6.1")
    assert (tree.names, tree.has("virtio")) == ([], False)


def test_module_is_put_in_without_its_debug_information(tmp_path):
    if not (shutil.which("gcc") and shutil.which("strip")):
        unavailable("toolchain", "no gcc and strip: apt-get install gcc")
    make_tree(tmp_path, {})
    (tmp_path / "a.c").write_text(
        '__attribute__((section(".modinfo"), used)) static const char depends[] = "depends=";\n'
        "int code(int x) { return x * 3; }\n"
    )
    path = tmp_path / "lib/modules/6.1/kernel/a.ko"
    subprocess.run(["gcc", "-g", "-c", "-o", path, tmp_path / "a.c"], check=True)

    (module,) = ModuleTree(tmp_path, "6.1").load_order(["a"])

    assert b".debug_info" in path.read_bytes()
    assert b".debug_info" not in module.data
    assert all(part in module.data for part in (b"depends=", b"code", b".modinfo"))


def test_module_that_is_damaged_anywhere_is_read_or_refused_in_a_sentence(tmp_path):
    tree = make_tree(tmp_path, {"a": []})
    path = tmp_path / "lib/modules/6.1/kernel/drivers/a.ko"
    whole = module_file([])
    refused = 0
    for at in range(len(whole)):
        for value in (0, 0xFF):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            try:
                tree.load_order(["a"])
            except ModuleError:
                refused += 1
    assert refused > 50
