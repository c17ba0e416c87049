"""Where the cache is, by the environment."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.host.cache import cache_directory, make_directory


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PYVMM_CACHE": "/own", "XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/own"),
        ({"PYVMM_CACHE": "", "XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/pyvmm"),
        ({"PYVMM_CACHE": "", "XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/pyvmm"),
        ({"PYVMM_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/pyvmm"),
    ],
)
def test_cache_directory_when_the_environment_says_where_follows_it(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert cache_directory() == expected


def test_cache_directory_when_relative_is_below_the_current_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYVMM_CACHE", "own")

    assert cache_directory() == os.path.join(os.getcwd(), "own")


@pytest.fixture(params=[0o000, 0o002, 0o077], ids=oct)
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
def test_directories_that_are_made_are_the_users_alone_whatever_the_umask(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o775)
    path = tmp_path / "cache" / "pyvmm"

    make_directory(str(path))
    make_directory(str(path))

    assert [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent, tmp_path)] == [
        0o700,
        0o700,
        0o775,
    ]


def test_directory_that_exists_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o2775)

    make_directory(str(path))

    assert stat.S_IMODE(path.stat().st_mode) == 0o2775


def test_directory_is_not_made_where_a_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)

    for path in ("file", "file/pyvmm"):
        with pytest.raises(OSError):
            make_directory(path)
    make_directory("pyvmm")
    assert (tmp_path / "pyvmm").is_dir()
