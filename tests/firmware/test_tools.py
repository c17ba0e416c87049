"""The prebuilt programs for Linux guests are what their sources give."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"


@pytest.mark.parametrize(
    ("program", "machine", "compiler", "built_with"),
    [
        ("awake", "x86_64", "gcc", "BUILT-WITH"),
        ("disk", "x86_64", "gcc", "BUILT-WITH"),
        ("disk", "aarch64", "aarch64-linux-gnu-gcc", "BUILT-WITH.aarch64"),
        ("hold", "x86_64", "gcc", "BUILT-WITH"),
        ("vsock", "x86_64", "gcc", "BUILT-WITH"),
        ("vsock", "aarch64", "aarch64-linux-gnu-gcc", "BUILT-WITH.aarch64"),
        ("wire", "x86_64", "gcc", "BUILT-WITH"),
    ],
)
def test_program_when_built_again_has_the_same_bytes(
    program: str, machine: str, compiler: str, built_with: str, tmp_path: Path
) -> None:
    if shutil.which(compiler) is None or shutil.which("make") is None:
        pytest.skip(f"no {compiler} and make to build it with")
    make = ["make", "-s", "-C", str(FIRMWARE / "guest" / "tools"), f"MACHINE={machine}"]
    tools = subprocess.run([*make, "tools"], check=True, capture_output=True, text=True).stdout
    if tools != (FIRMWARE / "guest" / "init" / built_with).read_text():
        pytest.skip(f"it was built with other tools than {' and '.join(tools.splitlines())}")

    subprocess.run([*make, f"PROGRAM={program}", f"OUT={tmp_path / program}"], check=True)

    built = FIRMWARE / "guest" / "tools" / f"{program}.{machine}"
    assert (tmp_path / program).read_bytes() == built.read_bytes()


def test_disk_when_called_wrongly_says_what_it_can() -> None:
    done = subprocess.run(
        [FIRMWARE / "guest" / "tools" / "disk.x86_64"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (2, "disk: usage: disk files|read|write|discard|zero ...\n")
