"""Which room of pyvmm may import which: a contract for import-linter, and its table for the tests.

A room is what lies directly in ``pyvmm/``, a package or a module. The table is in pyproject.toml: the
contract of type ``rooms``, a line for each room, ``name: what it imports``. Imports for type checkers count.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from importlinter import Contract, ContractCheck, fields, output

ROOT = Path(__file__).parents[2]
PACKAGE = "pyvmm"
#: Not rooms: the package's own module, which names what users import, and the one ``python -m`` runs.
FRONT = {PACKAGE, "__main__"}


def parse(lines: Iterable[str]) -> dict[str, set[str]]:
    """The table: what each room may import."""
    table = {}
    for line in lines:
        room, _, allowed = line.partition(":")
        table[room.strip()] = set(allowed.split())
    return table


def declared() -> dict[str, set[str]]:
    """The table of pyproject.toml, from the top room down."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return parse(next(contract["rooms"] for contract in contracts if contract["type"] == "rooms"))


def circles(imports: Iterable[tuple[str, str]]) -> list[set[str]]:
    """The sets of modules that import each other, directly or through others of the set."""
    graph: dict[str, set[str]] = {}
    for importer, imported in imports:
        graph.setdefault(importer, set()).add(imported)
    reached = {module: _reachable(graph, module) for module in graph}
    found: list[set[str]] = []
    for module in sorted(graph):
        circle = {other for other in reached[module] if module in reached.get(other, ())}
        if circle and not any(module in known for known in found):
            found.append(circle)
    return found


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for module in graph.get(waiting.pop(), ()):
            if module not in seen:
                seen.add(module)
                waiting.append(module)
    return seen


def room_of(module: str) -> str:
    """The room that module ``pyvmm...`` belongs to."""
    return module.split(".")[1] if "." in module else module


def complaints(table: dict[str, set[str]], imports: Iterable[tuple[str, str]]) -> list[str]:
    """What is wrong with *imports*, (importing module, imported module) each, as sentences."""
    found = []
    used: dict[str, set[str]] = {room: set() for room in table}
    for importer, imported in sorted(imports):
        source, target = room_of(importer), room_of(imported)
        if source == target or source in FRONT:
            continue
        if source not in table:
            found.append(f"{importer}: the room {source} is not in the table; add it")
        elif target in table[source]:
            used[source].add(target)
        else:
            found.append(f"{importer} imports {imported}, but {source} may not import {target}")
    for room, allowed in table.items():
        found += [
            f"{room} never imports {name}; remove it from the table" for name in sorted(allowed - used[room])
        ]
    return found


def circle_complaints(imports: Iterable[tuple[str, str]]) -> list[str]:
    """The circles as sentences."""
    return [
        f"these import each other in a circle: {', '.join(sorted(circle))}" for circle in circles(imports)
    ]


def imports_of(graph: Any) -> list[tuple[str, str]]:
    """Every import of an import graph: (importing module, imported module)."""
    return [
        (importer, imported)
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
    ]


class RoomsContract(Contract):
    """Every room imports what the table says, no other room and each of those; no modules form a circle."""

    type_name = "rooms"

    rooms = fields.ListField(subfield=fields.StringField())

    def check(self, graph: Any, verbose: bool) -> ContractCheck:
        """As import-linter wants it."""
        imports = imports_of(graph)
        found = complaints(parse(self.rooms), imports)  # type: ignore[arg-type]
        found += circle_complaints(imports)
        return ContractCheck(kept=not found, metadata={"complaints": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """As import-linter wants it."""
        for sentence in check.metadata["complaints"]:
            output.print_error(sentence)
