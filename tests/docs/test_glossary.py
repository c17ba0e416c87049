"""The words that docs/glossary.md rules out are not used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.repository import ROOT, tracked

GLOSSARY = ROOT / "docs" / "glossary.md"
#: What is searched.
SEARCHED = (
    ".ci",
    "CHANGELOG.md",
    "Dockerfile",
    "README.md",
    "SPECIFICATION.md",
    "docs",
    "examples",
    "firmware",
    "pyvmm",
    "scripts",
    "tests",
)
#: The list itself, and the test of the search.
EXEMPT = (GLOSSARY, Path(__file__).resolve())


def ruled_out() -> list[str]:
    """The words and phrases in the first column of the glossary's last table."""
    section = GLOSSARY.read_text().partition("## Words that are not used")[2]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return [phrase for cell in cells for phrase in re.findall(r"`([^`]+)`", cell)]


def uses(text: str, phrases: list[str]) -> list[str]:
    """``LINE: PHRASE`` for each use of *phrases* in *text*, also over the end of a line of a comment."""
    found = re.finditer(rf"(?<![\w-])(?:{'|'.join(map(_pattern, phrases))})(?![\w-])", text)
    return [f"{text.count(chr(10), 0, use.start()) + 1}: {' '.join(use[0].split())}" for use in found]


def _pattern(phrase: str) -> str:
    """A phrase may go over the end of a line; one without capitals may have them in the text."""
    pattern = re.escape(phrase).replace(r"\ ", r"[\s#*/|]+")
    return f"(?i:{pattern})" if phrase.islower() else pattern


def test_no_file_uses_a_word_that_is_ruled_out() -> None:
    phrases = ruled_out()
    found = []
    for path in tracked(*SEARCHED):
        if path in EXEMPT:
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:  # a binary
            continue
        found += [f"{path.relative_to(ROOT)}:{use}" for use in uses(text, phrases)]

    assert len(phrases) > 10
    assert found == []


def test_everything_that_is_searched_exists() -> None:
    assert [name for name in SEARCHED if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It gives back one.", ["1: gives back"]),
        ("\n# It gives\n# back one.", ["2: gives # back"]),
        ("It forgives backs.", []),
        ("TIRED", ["1: TIRED"]),
        ("Words and DeviceWords", ["1: DeviceWords"]),
    ],
)
def test_search_finds_whole_words(text: str, found: list[str]) -> None:
    assert uses(text, ["gives back", "tired", "DeviceWords"]) == found
