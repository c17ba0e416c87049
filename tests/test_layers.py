"""The rooms: docs/architecture.md has the table that import-linter checks, and the check works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.rooms import ROOT, circle_complaints, circles, complaints, declared

TABLE = {"upper": {"lower"}, "lower": set()}


def documented() -> dict[str, set[str]]:
    """Room and imports of each row of the table, from the top down."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.partition("## The rooms")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)/?` \|.*\| (-|`[\w ]+`) \|$", section, re.MULTILINE)
    return {room: set(imports.strip("`-").split()) for room, imports in rows}


def test_table_of_the_architecture_is_the_contracts() -> None:
    assert list(documented().items()) == list(declared().items())


def test_table_has_every_room_and_no_other() -> None:
    package = ROOT / "pyvmm"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    rooms |= {path.stem for path in package.glob("[a-z]*.py")}

    assert set(declared()) == rooms


def test_each_room_imports_only_rooms_below_it() -> None:
    order = list(declared())

    for room, imports in declared().items():
        assert imports - {"pyvmm"} <= set(order[order.index(room) + 1 :]), room


def test_imports_of_pyvmm_are_those_of_the_contracts(tmp_path: Path) -> None:
    # In a process of its own: it configures ``logging`` for its whole process.
    command = [str(Path(sys.executable).with_name("lint-imports")), "--cache-dir", str(tmp_path)]

    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("imports", "sentence"),
    [
        ([("pyvmm.lower.a", "pyvmm.upper.b")], "lower may not import upper"),
        ([("pyvmm.lower", "pyvmm.upper")], "lower may not import upper"),
        ([("pyvmm.middle.a", "pyvmm.lower.b")], "the room middle is not in the table"),
        ([("pyvmm.lower.a", "pyvmm")], "lower may not import pyvmm"),
        ([], "upper never imports lower"),
    ],
)
def test_complaints_when_an_import_is_not_the_tables_name_it(
    imports: list[tuple[str, str]], sentence: str
) -> None:
    assert any(sentence in found for found in complaints(TABLE, imports))


def test_complaints_when_all_is_as_in_the_table_are_none() -> None:
    imports = [
        ("pyvmm.upper.a", "pyvmm.lower"),
        ("pyvmm.upper.a", "pyvmm.upper.b"),
        ("pyvmm", "pyvmm.upper.a"),
    ]

    assert complaints(TABLE, imports) == []


def test_circles_are_found_whatever_way_they_go() -> None:
    imports = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("p", "p.q"), ("p.q", "p")]

    assert sorted(map(sorted, circles(imports))) == [["a", "b", "c"], ["p", "p.q"]]


def test_circle_is_named_by_its_modules() -> None:
    imports = [("pyvmm.lower.a", "pyvmm.lower.b"), ("pyvmm.lower.b", "pyvmm.lower.a")]

    assert circle_complaints(imports) == ["these import each other in a circle: pyvmm.lower.a, pyvmm.lower.b"]
    assert circle_complaints(imports[:1]) == []
