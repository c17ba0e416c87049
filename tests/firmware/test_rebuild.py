"""The prebuilt guest programs are what their sources give, on either architecture."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.toolchain import compiler

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"


def load(folder: Path) -> Any:
    """The builder of *folder*'s build.py, with what is common of the same tree."""
    spec = importlib.util.spec_from_file_location(f"build_{len(sys.modules)}", folder / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.delitem(sys.modules, "builder", raising=False)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        sys.modules.pop("builder")
    return module.builder


X86, ARM64 = load(FIRMWARE / "x86_64"), load(FIRMWARE / "arm64")
BUILDERS = pytest.mark.parametrize("builder", [X86, ARM64], ids=["x86", "arm64"])
PROGRAMS = pytest.mark.parametrize(
    ("builder", "program"),
    [
        pytest.param(builder, program, id=str((builder.folder / program.file).relative_to(FIRMWARE)))
        for builder in (X86, ARM64)
        for program in builder.programs
    ],
)


@PROGRAMS
def test_program_when_built_again_has_the_same_bytes(builder: Any, program: Any) -> None:
    builder.compiler = compiler(builder.prefix, builder.folder / "toolchain.txt")

    assert builder.build(program) == (builder.folder / "bin" / program.file).read_bytes()


@BUILDERS
def test_rebuild_when_tree_lies_elsewhere_gives_same_bytes(builder: Any, tmp_path: Path) -> None:
    copy = tmp_path / "a long way off"
    shutil.copytree(FIRMWARE, copy)
    elsewhere = load(copy / builder.folder.relative_to(FIRMWARE))
    elsewhere.compiler = compiler(builder.prefix, builder.folder / "toolchain.txt")
    program = next(program for program in builder.programs if program.file == "smp.bin")

    assert elsewhere.folder.is_relative_to(copy)
    assert elsewhere.build(program) == (builder.folder / "bin" / program.file).read_bytes()


@BUILDERS
def test_bin_when_listed_holds_the_programs_and_nothing_else(builder: Any) -> None:
    listed = {program.file for program in builder.programs}

    assert {path.name for path in (builder.folder / "bin").iterdir()} == listed


@BUILDERS
def test_readme_when_read_names_every_program(builder: Any) -> None:
    readme = (builder.folder / "README.md").read_text()

    assert [program.file for program in builder.programs if f"`{program.file}`" not in readme] == []


@pytest.mark.parametrize(
    "rom", sorted((FIRMWARE / "x86_64" / "bin").glob("*.bin")), ids=lambda path: path.name
)
def test_rom_when_measured_is_whole_pages_and_small(rom: Path) -> None:
    size = rom.stat().st_size

    assert size % 4096 == 0
    assert size <= 64 << 10
