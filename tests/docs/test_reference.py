"""The pages of docs/reference are what the code says; ``scripts/reference.py`` writes them."""

from __future__ import annotations

from types import ModuleType

import pytest

import pyvmm
from pyvmm.config import DEVICE_KINDS, Config
from pyvmm.machine import ending
from tests.support.repository import script


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    return script("reference")


def test_committed_pages_are_what_the_code_says(reference: ModuleType) -> None:
    stale = [name for name, text in reference.pages().items() if (reference.PAGES / name).read_text() != text]

    assert stale == [], "run .venv/bin/python scripts/reference.py"


def test_every_key_of_a_board_file_is_on_its_page(reference: ModuleType) -> None:
    page = reference.board_keys() + reference.device_kinds()
    keys = {key for key in Config.__slots__ if not key.startswith("_")} - {"devices"}

    assert {key for key in keys | set(DEVICE_KINDS) if f"\n| `{key}` |" not in page} == set()


def test_every_exit_code_has_its_meaning(reference: ModuleType) -> None:
    codes = {name for name, value in vars(ending).items() if isinstance(value, int) and name.isupper()}

    assert codes - set(reference.comments(ending)) == set()


def test_every_public_name_and_option_is_on_its_page(reference: ModuleType) -> None:
    assert [name for name in pyvmm.__all__ if f"### pyvmm.{name}\n" not in reference.python_api()] == []
    page = reference.command_line()
    from pyvmm.cli.run import OPTIONS

    assert [name for name in OPTIONS.options if f"| `--{name}" not in page] == []


@pytest.mark.parametrize(
    ("doc", "shown"),
    [
        ("A ``word``.", "A `word`."),
        ("Text.\n:param a: one\n:param b: two\n    lines", "Text.\n\n- `a`: one\n- `b`: two\n    lines"),
        (">>> f()\n1\n\nText", "```python\n>>> f()\n1\n```\n\nText"),
    ],
)
def test_docstring_becomes_markdown(reference: ModuleType, doc: str, shown: str) -> None:
    assert reference.markdown(doc) == shown
