"""Entries appear whole or not at all, whoever else wants them and whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from pyvmm.host.notice import limit
from pyvmm.images import cache
from tests.support.command import until


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def hidden(directory):
    return sorted(path.name for path in directory.rglob(".tmp-*"))


def test_directory_is_pyvmm_cache_then_xdg_then_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("PYVMM_CACHE", "/own")
    assert str(cache.directory()) == "/own"
    monkeypatch.delenv("PYVMM_CACHE")
    assert str(cache.directory()) == "/xdg/pyvmm"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert str(cache.directory()) == "/home/ann/.cache/pyvmm"


def test_entry_when_there_is_not_built_again(directory):
    cache.entry("a/b", lambda place: place.write_text("one"))
    assert cache.entry("a/b", lambda place: place.write_text("two")).read_text() == "one"
    assert hidden(directory) == []


def test_entry_when_its_build_fails_leaves_nothing(directory):
    def build(place):
        place.mkdir()
        (place / "half").write_text("")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.entry("a", build)
    assert hidden(directory) == []
    assert not (directory / "a").exists()


def test_entry_when_wanted_by_many_is_built_once():
    built = []
    gate = threading.Barrier(8)

    def want():
        gate.wait(10)
        cache.entry("a", lambda place: (built.append(1), place.write_text("x")))

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert built == [1]


BUILDER = """
import sys
from pyvmm.images import cache
from tests.support.command import until
def build(place):
    place.mkdir()
    (place / "half").write_text("half")
    print("building", flush=True)
    sys.stdin.read()
cache.entry("a-b", build)
"""


def test_builder_when_killed_leaves_no_entry_no_lock_and_its_rest_is_removed(directory):
    builder = subprocess.Popen(
        [sys.executable, "-c", BUILDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with builder:
        assert builder.stdout.readline() == "building\n"
        assert not (directory / "a-b").exists()
        builder.send_signal(signal.SIGKILL)
        builder.wait(10)
    assert len(hidden(directory)) == 1
    (directory / ".tmp-1-other-a-b").mkdir()  # another entry's, which may be being built
    cache.entry("a-b", lambda place: place.write_text("whole"))
    assert (directory / "a-b").read_text() == "whole"
    assert hidden(directory) == [".tmp-1-other-a-b"]


def test_cache_when_it_cannot_be_written_says_where_and_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "file"))
    with pytest.raises(cache.CacheError, match=r"file/a in the cache: .*PYVMM_CACHE"):
        cache.entry("a", lambda place: place.write_text(""))


def test_lock_when_its_holder_ends_is_free(directory):
    directory.mkdir()
    for _ in range(2):
        with cache.locked(directory / "a"):
            pass
    assert os.listdir(directory) == [".lock-a"]


def test_who_waits_for_another_process_says_for_what(directory, caplog):
    path = directory / "wanted"
    ended = threading.Event()

    def want():
        with cache.locked(path):
            ended.set()

    directory.mkdir(exist_ok=True)
    limit.sites.clear()  # tests before this one may have had such reports suppressed
    with cache.locked(path):
        thread = threading.Thread(target=want)
        thread.start()
        until(lambda: caplog.messages)
        assert not ended.is_set()
    thread.join(10)
    assert ended.is_set()
    assert caplog.messages == [f"waiting for another process, which makes {path} in the cache"]


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_cache_that_others_may_write_is_refused(directory, mode):
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(cache.CacheError, match=r"written by others, .*; chmod go-w .*, or set PYVMM_CACHE"):
        cache.entry("a", lambda place: place.touch())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's directory")
def test_cache_of_another_user_is_refused_also_for_root(directory, monkeypatch):
    directory.mkdir()
    os.chown(directory, 12345, 12345)
    monkeypatch.delenv("PYVMM_LAB", raising=False)
    with pytest.raises(cache.CacheError, match="belongs to user 12345"):
        cache.entry("a", lambda place: place.touch())

    monkeypatch.setenv("PYVMM_LAB", "x86_64")
    assert cache.entry("a", lambda place: place.touch()).exists()
