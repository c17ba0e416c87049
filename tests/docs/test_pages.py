"""The pages can be found: links lead somewhere, and every page is reached from the index."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from tests.support.repository import ROOT, script, tracked


def links(page: Path) -> list[str]:
    """The targets of a page's links that are not to the web, outside of code."""
    text = re.sub(r"```.*?```|`[^`\n]*`(?!\])", "", page.read_text(), flags=re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """The links of *page* whose file or heading does not exist."""
    found = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


def test_every_link_of_every_page_leads_somewhere() -> None:
    pages = tracked("*.md")

    assert len(pages) > 20
    assert {str(page.relative_to(ROOT)): bad for page in pages if (bad := broken(page))} == {}


def test_every_page_that_a_source_file_names_exists() -> None:
    missing = []
    for path in tracked("*.py", "*.c", "*.h", "*.S", "*.md", "*.toml", "scripts", "firmware"):
        try:
            text = path.read_text()
        except UnicodeDecodeError:  # a binary
            continue
        named = re.findall(r"(?<![\w/.-])docs/[\w/-]+\.md", text)
        missing += [f"{path.relative_to(ROOT)}: {page}" for page in named if not (ROOT / page).is_file()]

    assert missing == []


def test_every_test_that_a_page_names_exists() -> None:
    missing = []
    for page in tracked("*.md"):
        named = re.findall(r"`(tests/[\w/.-]+?)`", page.read_text())
        missing += [f"{page.relative_to(ROOT)}: {name}" for name in named if not (ROOT / name).exists()]

    assert missing == [], "give the whole path of a test that exists"


def test_every_page_is_reached_from_the_index() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "docs" / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
        waiting += [target for target in targets if target.suffix == ".md" and target.is_file()]

    pages = {path for path in tracked("docs") if path.suffix == ".md"}
    assert {str(page.relative_to(ROOT)) for page in pages - reached} == set()


def test_files_of_the_virtio_table_in_the_architecture_exist() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text().partition("| file of `virtio/` |")[2]
    rows = re.findall(r"^\| (`.*?) \|", table.partition("\n\n")[0], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w/]+)`", row)]
    virtio = ROOT / "pyvmm" / "virtio"

    assert len(named) > 15
    there = {str(path.relative_to(virtio)).removesuffix(".py") for path in virtio.rglob("*")}
    assert [name for name in named if name.rstrip("/") not in there] == []


def test_picture_of_a_boot_shows_what_the_quickstart_types() -> None:
    shown = html.unescape((ROOT / "docs" / "boot.svg").read_text())

    assert [command for command in script("quickstart").TYPED if f"# {command}<" not in shown] == []


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("[a](nowhere.md)", ["nowhere.md"]),
        ("# One two\n[a](#one-two) [b](#three)", ["#three"]),
        ("`[a](nowhere.md)` [b](https://example.org/x)", []),
    ],
)
def test_checker_when_a_link_is_broken_names_it(tmp_path: Path, text: str, bad: list[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)

    assert broken(page) == bad
