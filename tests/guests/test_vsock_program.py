"""The vsock program for guests is the one built from its source."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "firmware" / "linux"


@pytest.mark.parametrize(
    ("machine", "compiler", "built_with"),
    [("x86_64", "gcc", "BUILT-WITH"), ("aarch64", "aarch64-linux-gnu-gcc", "BUILT-WITH.aarch64")],
)
def test_program_when_built_again_has_the_same_bytes(
    tmp_path: Path, machine: str, compiler: str, built_with: str
) -> None:
    if shutil.which(compiler) is None or shutil.which("make") is None:
        pytest.skip(f"no {compiler} and make to build the program with")
    make = ["make", "-s", "-C", str(FOLDER), f"MACHINE={machine}"]
    tools = subprocess.run([*make, "tools"], check=True, capture_output=True, text=True).stdout
    if tools != (FOLDER / built_with).read_text():
        pytest.skip(f"the program was built with other tools than {' and '.join(tools.split(chr(10)))}")

    subprocess.run([*make, f"OUT={tmp_path / 'vsock'}"], check=True)

    assert (tmp_path / "vsock").read_bytes() == (FOLDER / f"vsock.{machine}").read_bytes()
