"""A class name occurs once in the package: a name says which class is meant."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.support.repository import ROOT


def test_no_two_classes_have_one_name() -> None:
    """The kernel's structures are in lower case and have the kernel's names, for each architecture."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "pyvmm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.strip("_").islower():
                places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")

    assert len(places) > 100
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
