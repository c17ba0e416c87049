"""The prebuilt programs for Linux guests are what their sources give."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.require import unavailable
from tests.support.toolchain import compiler

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
#: What each was built with, in firmware/guest/init.
MACHINES = {"x86_64": "BUILT-WITH", "aarch64": "BUILT-WITH.aarch64"}


def linux_program(folder: Path, machine: str, made: Path, *words: str) -> bytes:
    """What make builds in *folder* for *machine*, written to *made*."""
    prefix = "" if machine == os.uname().machine else f"{machine}-linux-gnu-"
    cc = compiler(prefix, FIRMWARE / "guest/init" / MACHINES[machine])
    if shutil.which("make") is None:
        unavailable("toolchain", "no make: apt-get install make")
    command = ["make", "-s", "-C", str(folder), f"MACHINE={machine}", f"CC={cc}", f"OUT={made}", *words]
    subprocess.run(command, check=True)
    return made.read_bytes()


@pytest.mark.parametrize(
    "file",
    sorted(path.name for machine in MACHINES for path in (FIRMWARE / "guest/tools").glob(f"*.{machine}")),
)
def test_tool_when_built_again_has_the_same_bytes(file: str, tmp_path: Path) -> None:
    program, machine = file.split(".")
    made = linux_program(FIRMWARE / "guest/tools", machine, tmp_path / "made", f"PROGRAM={program}")

    assert made == (FIRMWARE / "guest/tools" / file).read_bytes()


@pytest.mark.parametrize("machine", MACHINES)
def test_init_when_built_again_has_the_same_bytes(machine: str, tmp_path: Path) -> None:
    made = linux_program(FIRMWARE / "guest/init", machine, tmp_path / "init")

    assert made == (FIRMWARE / "guest/init" / f"pyvmm-init.{machine}").read_bytes()


def test_disk_when_called_wrongly_says_what_it_can() -> None:
    done = subprocess.run(
        [FIRMWARE / "guest" / "tools" / "disk.x86_64"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (2, "disk: usage: disk files|read|write|discard|zero ...\n")
