"""Modules are found whatever their packing, and loaded after what they need."""

from __future__ import annotations

import gzip
import lzma

import pytest
import zstandard

from pyvmm.images.modules import ModuleError, ModuleTree
from tests.support.guest_files import module_file

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
