"""Every program in the guide and in the README runs, and prints what the page shows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from pyvmm.arch import native
from pyvmm.config import Config
from tests.support.pages import ROOT, Block, blocks, prints, run

PAGES = [
    "../README.md",
    *sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs" / "guide").glob("*.md")),
]
EVERY_PAGE = sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))
#: What a program may need; the markers of tests/conftest.py.
NEEDS = {"kvm", "hw", "lab", "net"}
#: Seconds a program gets; a guest takes 10 to boot on an emulated host, several times that on a busy one.
LIMIT = 240.0
#: What a block can be besides a program and its output.
OTHER = {"text", "toml", "c"}


def programs() -> list[object]:
    """A parameter for each program, with its markers."""
    return [
        pytest.param(
            block,
            id=f"{Path(page).name}-line-{block.line}",
            marks=[pytest.mark.timeout(LIMIT + 30), *(getattr(pytest.mark, need) for need in block.needs)],
        )
        for page in PAGES
        for block in blocks(page)
        if block.is_program and not block.why_not
    ]


@pytest.mark.parametrize("block", programs())
def test_program_runs_and_prints_what_the_page_shows(block: Block, tmp_path: Path) -> None:
    if "kvm" in block.needs and native.NAME != "x86_64":
        pytest.skip("the program's guest is for x86-64")

    done = run(block, tmp_path, LIMIT)

    assert done.returncode == 0, done.stdout
    if block.output is not None:
        assert prints(done.stdout, block.output), f"printed:\n{done.stdout}\nshown:\n{block.output}"


@pytest.mark.parametrize("page", PAGES)
def test_block_of_a_page_is_a_program_a_file_or_text(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    found = blocks(page)

    assert text.count("\n```") % 2 == 0
    assert text.count("\n```") // 2 == len(found) + sum(block.output is not None for block in found)
    assert {block.language for block in found if not block.is_program and not block.file} <= OTHER
    assert {need for block in found for need in block.needs} <= NEEDS
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"\n\n    \S.*", outside) == [], "an indented block is not run: write it as ```sh"


def test_every_board_file_of_the_pages_is_one() -> None:
    boards = [block for page in EVERY_PAGE for block in blocks(page) if block.language == "toml"]
    machines = [block for block in boards if "[project" not in block.text]

    assert len(machines) > 3
    for block in machines:
        Config(**tomllib.loads(block.text))


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\nb\n", "a\n", False),
        ("Linux 6.1.0-30 on\nx", "Linux ... on\nx", True),
        ("a\n1\n2\nb", "a\n...\nb", True),
        ("a\nc", "a\n...\nb", False),
    ],
)
def test_dots_in_the_shown_output_stand_for_any_text(output: str, expected: str, same: bool) -> None:
    assert prints(output, expected) is same
