"""Where the cache is, by the environment."""

from __future__ import annotations

import os

import pytest

from pyvmm.host.cache import cache_directory


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
