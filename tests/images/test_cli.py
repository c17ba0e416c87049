"""``pyvmm image`` at the command line."""

from __future__ import annotations

import os

import pytest

from pyvmm.cli import image
from pyvmm.cli import main as cli
from pyvmm.images import cpio, debian, default, kernel
from tests.support.apt import Apt
from tests.support.guest_files import BUSYBOX, module_file

NATIVE = debian.ARCHITECTURES.get(os.uname().machine, "amd64")


@pytest.fixture(autouse=True)
def apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    apt = Apt(tmp_path, monkeypatch)
    apt.offer("busybox-static", members=[("./bin", None), ("./bin/busybox", BUSYBOX)])
    apt.offer("linux-image-cloud-amd64", depends="linux-image-6.1.0-9-cloud-amd64 (= 1.0)")
    modules = "./lib/modules/6.1.0-9-cloud-amd64"
    on_demand = [name for names in default.ON_DEMAND.values() for name in names]
    names = (
        *default.DEFAULT_MODULES,
        *default.POWER_BUTTON.values(),
        *default.PVPANIC["amd64"],
        *on_demand,
    )
    members = [("./boot", None), ("./boot/vmlinuz-6.1.0-9-cloud-amd64", b"kernel"), (modules, None)]
    members += [(f"{modules}/{name}.ko", module_file([])) for name in names]
    apt.offer("linux-image-6.1.0-9-cloud-amd64", members=members)
    return apt


def test_path_prints_kernel_and_initrd_that_can_be_booted(capfd):
    assert image.main(["path"]) == 0
    kernel, initrd = capfd.readouterr().out.split()
    with open(kernel, "rb") as file:
        assert file.read() == b"kernel"
    with open(initrd, "rb") as file:
        paths = [entry.path for entry in cpio.read(file.read())]
    assert "init" in paths
    assert "lib/modules/6.1.0-9-cloud-amd64/virtio_net.ko" in paths


def test_path_when_fetched_before_makes_nothing_anew(capfd, apt, monkeypatch):
    image.main(["path"])
    first = capfd.readouterr().out
    monkeypatch.setenv("PATH", "/nowhere")
    image.main(["path"])
    assert capfd.readouterr() == (first, "")


def test_fetch_without_names_fetches_the_default_guest_and_list_shows_it(capfd):
    image.main(["fetch"])
    assert len(capfd.readouterr().out.split()) == 2
    image.main(["list"])
    assert capfd.readouterr().out.split() == ["amd64/busybox-static", "amd64/linux-image-cloud-amd64"]


def test_kernel_is_built_for_the_architecture_asked_for(capfd, monkeypatch, tmp_path):
    monkeypatch.setattr(kernel, "minimal_kernel", lambda architecture: tmp_path / architecture)
    (tmp_path / "arm64").write_bytes(b"image")

    image.main(["kernel", "--arch", "arm64", "--output", str(tmp_path / "copy")])
    image.main(["kernel"])

    assert (tmp_path / "copy").read_bytes() == b"image"
    assert capfd.readouterr().out.split() == [str(tmp_path / "copy"), str(tmp_path / NATIVE)]


def test_initramfs_has_what_was_given(capfd, tmp_path):
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    output = tmp_path / "out.cpio"
    arguments = ["--file", f"{tmp_path}/tool:/usr/local/bin/tool", "--module", "evdev"]
    assert image.main(["initramfs", "-o", str(output), *arguments]) == 0
    made = {entry.path: entry for entry in cpio.read(output.read_bytes())}
    assert made["usr/local/bin/tool"].mode & 0o777 == 0o755
    assert made["etc/pyvmm/modules"].data == b"/lib/modules/6.1.0-9-cloud-amd64/evdev.ko\n"
    assert capfd.readouterr().out == f"{output}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["initramfs", "-o", "OUT", "--file", "nowhere"], 65, "not SRC:DEST"),
        (["initramfs", "-o", "OUT", "--file", "/no/such:x"], 64, "/no/such cannot be read: No such file"),
        (["initramfs", "-o", "OUT", "--file", "/:x"], 64, "cannot be read"),
        (["initramfs", "-o", "OUT", "--module", "nosuch"], 65, "no module nosuch"),
        (["initramfs", "-o", "/no/such/dir/out"], 64, "/no/such/dir/out cannot be written"),
        (["initramfs"], 65, "--help` tells more"),
        (["fetch", "--arch", "vax"], 65, "invalid choice: 'vax'"),
        (["fetch", "nosuch"], 64, "no package nosuch"),
        (["wrong"], 65, "invalid choice: 'wrong'"),
        ([], 65, "VERB"),
    ],
)
def test_wrong_use_is_told_in_a_line_with_its_code(arguments, code, sentence, capfd, tmp_path):
    arguments = [argument.replace("OUT", str(tmp_path / "out")) for argument in arguments]
    assert cli.main(["image", *arguments]) == code
    lines = [line for line in capfd.readouterr().err.splitlines() if "fetching" not in line]
    assert len(lines) == 1
    assert sentence in lines[0]
    assert not (tmp_path / "out").exists()
