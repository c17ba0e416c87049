"""The names of ``pyvmm`` itself: all shown, none loaded before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pyvmm
import pyvmm.testing

ROOT = Path(__file__).resolve().parents[1]


def test_dir_shows_every_public_name_and_loads_none() -> None:
    code = "import sys, pyvmm; print(*dir(pyvmm)); print(*[name for name in sys.modules if 'pyvmm.' in name])"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    shown, loaded = done.stdout.splitlines()
    assert set(pyvmm.__all__) | {"__version__"} <= set(shown.split())
    assert loaded == ""


@pytest.mark.parametrize("name", pyvmm.__all__)
def test_public_name_is_what_its_module_calls_so_and_type_checkers_are_told(name: str) -> None:
    found = getattr(pyvmm, name)

    assert (found.__name__ if isinstance(found, type) else repr(found)) == name
    assert found.__module__ == told_to_type_checkers()[name]


def test_names_that_type_checkers_see_are_the_public_ones() -> None:
    assert set(told_to_type_checkers()) == set(pyvmm.__all__)


def told_to_type_checkers() -> dict[str | None, str | None]:
    """The module of each name that the package imports for type checkers alone."""
    tree = ast.parse((ROOT / "pyvmm" / "__init__.py").read_text())
    return {
        alias.asname: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_what_users_of_devices_need_is_public() -> None:
    devices = {"Chain", "ChainError", "DEFERRED", "Deferred", "Device", "VirtioDevice"}

    assert devices <= set(pyvmm.__all__)
    assert {"Config", "Ending", "Guest", "Machine"} <= set(pyvmm.__all__)
    assert "FakeDriver" in pyvmm.testing.__all__


def test_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Machines'"):
        pyvmm.Machines  # noqa: B018
