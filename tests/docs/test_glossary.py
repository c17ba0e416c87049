"""The words that docs/glossary.md rules out are not used."""

from __future__ import annotations

import re

import pytest

from tests.support.repository import ROOT, tracked

GLOSSARY = ROOT / "docs" / "glossary.md"
#: The folders and files that are clean already. In the end these are all.
CLEAN = (
    ".ci",
    "CHANGELOG.md",
    "Dockerfile",
    "README.md",
    "SPECIFICATION.md",
    "docs/devices",
    "docs/internals",
    "examples",
    "firmware/arm64",
    "firmware/common",
    "firmware/guest/tools",
    "firmware/x86_64",
    "pyvmm/arch",
    "pyvmm/backends",
    "pyvmm/board",
    "pyvmm/boot",
    "pyvmm/config",
    "pyvmm/devices",
    "pyvmm/exec",
    "pyvmm/host",
    "pyvmm/images",
    "pyvmm/lab",
    "pyvmm/loop.py",
    "pyvmm/machine",
    "pyvmm/memory",
    "pyvmm/pykvm",
    "pyvmm/signals.py",
    "pyvmm/units.py",
    "scripts",
    "tests/arch",
    "tests/backends",
    "tests/boot",
    "tests/cli",
    "tests/devices",
    "tests/exec",
    "tests/firmware",
    "tests/fuzz",
    "tests/images",
    "tests/integration",
    "tests/lab",
    "tests/machine",
    "tests/memory",
    "tests/pykvm",
    "tests/soak",
    "tests/support",
)


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


def test_clean_files_use_no_word_that_is_ruled_out() -> None:
    phrases = ruled_out()
    found = []
    for path in tracked(*CLEAN):
        if path == GLOSSARY:
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:  # a binary
            continue
        found += [f"{path.relative_to(ROOT)}:{use}" for use in uses(text, phrases)]

    assert len(phrases) > 10
    assert found == []


def test_every_clean_folder_exists() -> None:
    assert [name for name in CLEAN if not (ROOT / name).exists()] == []


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
