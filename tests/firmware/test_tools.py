"""The prebuilt programs for Linux guests are what their sources give."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"


@pytest.mark.parametrize("program", ["disk", "wire"])
def test_program_when_built_again_has_the_same_bytes(program: str, tmp_path: Path) -> None:
    if shutil.which("gcc") is None or shutil.which("make") is None:
        pytest.skip("no gcc and make to build it with")
    tools = subprocess.run(
        ["make", "-s", "-C", FIRMWARE / "tools", "tools"], check=True, capture_output=True, text=True
    ).stdout
    if tools != (FIRMWARE / "init" / "BUILT-WITH").read_text():
        pytest.skip(f"it was built with other tools than {' and '.join(tools.splitlines())}")

    subprocess.run(
        ["make", "-s", "-C", FIRMWARE / "tools", f"PROGRAM={program}", f"OUT={tmp_path / program}"],
        check=True,
    )

    assert (tmp_path / program).read_bytes() == (FIRMWARE / "tools" / f"{program}.x86_64").read_bytes()


def test_disk_when_called_wrongly_says_what_it_can() -> None:
    done = subprocess.run([FIRMWARE / "tools" / "disk.x86_64"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (2, "disk: usage: disk files|read|write|discard|zero ...\n")
