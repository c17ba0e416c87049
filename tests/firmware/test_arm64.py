"""The prebuilt arm64 guest programs are what their sources give, and most of them run on QEMU's emulation."""

from __future__ import annotations

import importlib.util
import selectors
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "firmware" / "arm64"
BIN = FOLDER / "bin"
QEMU = "qemu-system-aarch64"
LIMIT = 30


def load_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("arm64_firmware_build", FOLDER / "build.py")
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
        pytest.skip(f"{error.filename} is not installed: apt-get install gcc-aarch64-linux-gnu")
    recorded = (FOLDER / "toolchain.txt").read_text()
    if here != recorded:
        pytest.skip(f"the programs were built with other tools: {recorded!r}, here {here!r}")


@pytest.mark.parametrize("program", build.PROGRAMS, ids=lambda program: program.file)
def test_rebuild_when_tools_match_gives_same_bytes(program: object, same_toolchain: None) -> None:
    committed = (BIN / program.file).read_bytes()  # type: ignore[attr-defined]

    assert build.build(program) == committed


def test_bin_when_listed_holds_the_programs_and_nothing_else() -> None:
    assert {path.name for path in BIN.iterdir()} == {program.file for program in build.PROGRAMS}


def test_readme_when_read_names_every_program() -> None:
    readme = (FOLDER / "README.md").read_text()

    assert [program.file for program in build.PROGRAMS if f"`{program.file}`" not in readme] == []


def said(program: Path, cpus: int = 1) -> str:
    """What *program* says on QEMU's ``virt`` board, until its report; it cannot end that machine."""
    if shutil.which(QEMU) is None:
        pytest.skip(f"{QEMU} is not installed: apt-get install qemu-system-arm")
    command = [QEMU, "-M", "virt,gic-version=3", "-cpu", "cortex-a57", "-m", "64M", "-smp", str(cpus)]
    command += ["-display", "none", "-serial", "stdio", "-bios", str(program)]
    text = b""
    with (
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process,
        selectors.DefaultSelector() as selector,
    ):
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        deadline = time.monotonic() + LIMIT
        while not text.endswith(b"\n") and time.monotonic() < deadline:
            if selector.select(1):
                data = process.stdout.read1(4096)  # type: ignore[attr-defined]
                if not data:
                    break
                text += data
        process.kill()
    return text.decode(errors="replace").replace("\r", "")


@pytest.mark.parametrize(
    "name", ["exceptions", "gic_sgi", "hello", "psci", "rom_write", "rtc", "smp", "sweep", "timer"]
)
def test_program_when_run_by_qemu_passes(name: str) -> None:
    assert said(BIN / f"{name}.bin").startswith(f"ok {name}")


def test_smp_when_qemu_has_three_cpus_starts_them_all(tmp_path: Path) -> None:
    program = bytearray((BIN / "smp.bin").read_bytes())
    program[16:24] = (3).to_bytes(8, "little")
    path = tmp_path / "smp.bin"
    path.write_bytes(program)

    assert said(path, 3) == "ok smp 0x3\n"
