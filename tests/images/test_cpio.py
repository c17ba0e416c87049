"""Archives the kernel and cpio(1) read, the same for the same entries."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.images import cpio

ENTRIES = [
    cpio.folder("dev"),
    cpio.character_device("dev/console", 5, 1),
    cpio.file("bin/tool", b"#!/bin/sh\n", 0o755),
    cpio.symlink("sbin", "bin"),
    cpio.file("empty", b""),
    cpio.folder("tmp", 0o1777),
]


def parts(entry):
    return entry.path, entry.mode, entry.data, entry.device


def test_archive_when_read_gives_the_entries_and_their_parents():
    entries = cpio.read(cpio.archive(ENTRIES))
    assert [entry.path for entry in entries] == [
        "dev",
        "dev/console",
        "bin",
        "bin/tool",
        "sbin",
        "empty",
        "tmp",
    ]
    assert [parts(entry) for entry in entries if entry.path != "bin"] == list(map(parts, ENTRIES))


def test_archive_when_made_twice_has_the_same_bytes():
    assert cpio.archive(ENTRIES) == cpio.archive(list(ENTRIES))


@pytest.mark.skipif(shutil.which("busybox") is None and shutil.which("cpio") is None, reason="no cpio here")
def test_archive_when_unpacked_by_cpio_gives_the_files(tmp_path):
    tool = ["cpio"] if shutil.which("cpio") else ["busybox", "cpio"]
    data = cpio.archive([entry for entry in ENTRIES if not stat.S_ISCHR(entry.mode)])
    subprocess.run([*tool, "-idm"], input=data, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert os.access(tmp_path / "bin/tool", os.X_OK)
    assert os.readlink(tmp_path / "sbin") == "bin"
    assert (tmp_path / "empty").read_bytes() == b""
    assert (tmp_path / "tmp").stat().st_mode & 0o7777 == 0o1777


NAME = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..", "TRAILER!!!")
)


@given(st.dictionaries(NAME, st.binary(max_size=50), max_size=8))
def test_files_of_any_name_and_content_come_back(files):
    data = cpio.archive([cpio.file(name, content) for name, content in files.items()])
    assert len(data) % 4 == 0
    assert {entry.path: entry.data for entry in cpio.read(data)} == files


def test_later_entry_takes_the_place_of_an_earlier_one():
    entries = cpio.read(cpio.archive([cpio.file("a", b"1"), cpio.file("b", b"2"), cpio.file("a", b"3")]))
    assert [(entry.path, entry.data) for entry in entries] == [("a", b"3"), ("b", b"2")]


@pytest.mark.parametrize("path", ["/etc", "", "a/../b", "a//b", "./a", "a/", "a\0b"])
def test_path_when_not_plain_is_refused(path):
    with pytest.raises(cpio.CpioError):
        cpio.archive([cpio.file(path, b"")])


@given(st.binary(max_size=300))
def test_reader_when_given_anything_only_raises_its_own_error(data):
    with pytest.raises(cpio.CpioError):
        cpio.read(data)


@pytest.mark.parametrize("cut", [0, 50, 110, 115, 300])
def test_archive_when_cut_short_is_refused(cut):
    with pytest.raises(cpio.CpioError):
        cpio.read(cpio.archive(ENTRIES)[:cut])
