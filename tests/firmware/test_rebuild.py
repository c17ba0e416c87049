"""The prebuilt guest programs are what their sources give."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"


def load_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("firmware_build", FIRMWARE / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = load_build()


@pytest.fixture(scope="module")
def same_toolchain() -> None:
    """Skips where other versions of the tools would give other bytes."""
    try:
        here = build.toolchain()
    except OSError as error:
        pytest.skip(f"{error.filename} is not installed")
    recorded = (FIRMWARE / "toolchain.txt").read_text()
    if here != recorded:
        pytest.skip(f"the programs were built with other tools: {recorded!r}, here {here!r}")


@pytest.mark.parametrize("program", build.PROGRAMS, ids=lambda program: program.file)
def test_rebuild_when_tools_match_gives_same_bytes(program: object, same_toolchain: None) -> None:
    committed = (FIRMWARE / "bin" / program.file).read_bytes()  # type: ignore[attr-defined]

    assert build.build(program) == committed


def test_rebuild_when_tree_lies_elsewhere_gives_same_bytes(tmp_path: Path, same_toolchain: None) -> None:
    shutil.copytree(FIRMWARE, tmp_path / "a long way off")
    elsewhere: Any = load_build()
    elsewhere.HERE = tmp_path / "a long way off"
    program = next(program for program in build.PROGRAMS if program.file == "smp.bin")

    assert elsewhere.build(program) == (FIRMWARE / "bin" / program.file).read_bytes()


def test_bin_when_listed_holds_the_programs_and_nothing_else() -> None:
    listed = {program.file for program in build.PROGRAMS}

    assert {path.name for path in (FIRMWARE / "bin").iterdir()} == listed


def test_readme_when_read_names_every_program() -> None:
    readme = (FIRMWARE / "README.md").read_text()

    assert [program.file for program in build.PROGRAMS if f"`{program.file}`" not in readme] == []


@pytest.mark.parametrize("rom", sorted((FIRMWARE / "bin").glob("*.bin")), ids=lambda path: path.name)
def test_rom_when_measured_is_whole_pages_and_small(rom: Path) -> None:
    size = rom.stat().st_size

    assert size % 4096 == 0
    assert size <= 64 << 10
