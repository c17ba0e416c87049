"""Packages through apt: meta packages resolved, unpacked, cached; failures in one sentence."""

from __future__ import annotations

import os

import pytest

from pyvmm.images import debian
from pyvmm.images.cache import directory
from tests.support.apt import Apt

NATIVE = debian.ARCHITECTURES.get(os.uname().machine, "amd64")
FOREIGN = "arm64" if NATIVE == "amd64" else "amd64"


@pytest.fixture
def apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    return Apt(tmp_path, monkeypatch)


@pytest.fixture
def said():
    return []


def test_meta_package_gives_the_versioned_one_unpacked(apt, said):
    apt.offer("linux-image-amd64", "6.1.9-1", "linux-image-6.1.0-9-amd64 (= 6.1.9-1)")
    apt.offer(
        "linux-image-6.1.0-9-amd64",
        "2:6.1.9-1",
        "kmod, linux-base (>= 4.3~)",
        [
            ("./boot", None),
            ("./boot/vmlinuz-6.1.0-9-amd64", b"kernel"),
            ("./vmlinuz", "boot/vmlinuz-6.1.0-9-amd64"),
        ],
    )
    package = debian.package("linux-image-amd64", NATIVE, said.append)
    assert (package.name, package.version) == ("linux-image-6.1.0-9-amd64", "2:6.1.9-1")
    assert (package.root / "boot/vmlinuz-6.1.0-9-amd64").read_bytes() == b"kernel"
    assert (package.root / "vmlinuz").read_bytes() == b"kernel"
    assert said == [f"fetching linux-image-6.1.0-9-amd64 2:6.1.9-1 ({NATIVE})"]


def test_package_when_fetched_before_needs_no_apt(apt, said, monkeypatch):
    apt.offer("tool", members=[("./bin", None), ("./bin/tool", b"x")])
    first = debian.package("tool", NATIVE, said.append)
    monkeypatch.setenv("PATH", "/nowhere")
    said.clear()
    again = debian.package("tool", NATIVE, said.append)
    assert (again.name, again.version, again.root) == (first.name, first.version, first.root)
    assert said == []
    assert debian.fetched() == [f"{NATIVE}/tool"]


def test_native_package_uses_the_lists_of_the_system(apt, said):
    apt.offer("tool")
    debian.package("tool", NATIVE, said.append)
    assert "apt-get update" not in apt.calls


def test_foreign_package_uses_lists_of_its_own(apt, said):
    apt.offer("tool")
    debian.package("tool", FOREIGN, said.append)
    assert apt.calls == ["apt-get update", "apt-cache show", "apt-get download"]
    configuration = (directory() / "apt" / FOREIGN / "apt.conf").read_text()
    assert f'APT::Architecture "{FOREIGN}";' in configuration
    assert f'Dir::State::Lists "{directory()}/apt/{FOREIGN}/lists";' in configuration


def test_foreign_packages_when_many_are_wanted_fetch_the_lists_once(apt, said):
    for name in ("one", "two"):
        apt.offer(name)
        debian.package(name, FOREIGN, said.append)

    assert apt.calls.count("apt-get update") == 1


def test_package_when_the_mirror_lost_it_is_tried_again_with_new_lists(apt, said):
    apt.offer("tool")
    apt.lose("tool")
    with pytest.raises(debian.PackageError, match="Failed to fetch it; see that the network"):
        debian.package("tool", NATIVE, said.append)
    assert apt.calls == [
        "apt-cache show",
        "apt-get download",
        "apt-get update",
        "apt-cache show",
        "apt-get download",
    ]
    assert [
        path.name for path in (directory() / "debian" / NATIVE).iterdir() if not path.name.startswith(".lock")
    ] == []


def test_package_when_unknown_is_named(apt, said):
    with pytest.raises(debian.PackageError, match=f"no package nothing for {NATIVE}; check the name"):
        debian.package("nothing", NATIVE, said.append)


def test_package_without_apt_says_what_to_do(apt, said, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(debian.PackageError, match="no apt-get here; run this on Debian"):
        debian.package("tool", NATIVE, said.append)


@pytest.mark.parametrize("name", ["../../etc", "a b", "-o", "a/b", "ä", ""])
def test_name_when_no_package_can_have_it_is_refused(apt, name):
    with pytest.raises(debian.PackageError, match="cannot be the name"):
        debian.package(name, NATIVE, lambda text: None)
    assert apt.calls == []


def test_architecture_when_unknown_is_refused(apt):
    with pytest.raises(debian.PackageError, match="amd64, arm64"):
        debian.package("tool", "s390x")


def test_package_with_a_file_outside_its_root_is_refused(apt, said, tmp_path):
    apt.offer("tool", members=[("./../../../../evil", b"x")])
    with pytest.raises(debian.PackageError, match="outside its root"):
        debian.package("tool", NATIVE, said.append)
    assert not list(tmp_path.rglob("evil"))


def test_package_with_a_file_behind_a_link_out_of_its_root_is_refused(apt, said, tmp_path):
    (tmp_path / "outside").mkdir()
    apt.offer("tool", members=[("./link", str(tmp_path / "outside")), ("./link/evil", b"x")])
    with pytest.raises(debian.PackageError, match="outside its root"):
        debian.package("tool", NATIVE, said.append)
    assert not list(tmp_path.rglob("evil"))


def test_file_in_the_place_of_a_link_replaces_it(apt, said, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    apt.offer("tool", members=[("./link", str(outside)), ("./link", b"x")])
    package = debian.package("tool", NATIVE, said.append)

    assert outside.read_bytes() == b"precious"
    assert (package.root / "link").read_bytes() == b"x"


def test_hard_link_to_what_a_link_names_is_one_to_the_link(apt, said, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    apt.offer("tool", members=[("./link", str(outside)), ("./hard", ("./link",)), ("./hard", b"x")])
    debian.package("tool", NATIVE, said.append)

    assert outside.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["../../../../outside", "./link/file"])
def test_hard_link_to_a_file_outside_its_root_is_refused(apt, said, tmp_path, name):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"precious")
    apt.offer("tool", members=[("./link", str(tmp_path / "outside")), ("./hard", (name,))])
    with pytest.raises(debian.PackageError, match="outside its root"):
        debian.package("tool", NATIVE, said.append)


def test_closure_names_what_apt_would_install(apt, said):
    apt.offer("tool")
    apt.chooses("Inst libtool (1 Debian [arm64])\nInst tool:arm64 (2 Debian:12 [arm64]) []\nConf tool (2)\n")

    assert debian.closure("tool", FOREIGN, said.append) == ["libtool", "tool"]
    assert apt.calls == ["apt-get update", "apt-get install"]


def test_closure_when_apt_cannot_says_why(apt, said):
    with pytest.raises(debian.PackageError, match="apt-get install for arm64 packages failed"):
        debian.closure("nonesuch", "arm64", said.append)
