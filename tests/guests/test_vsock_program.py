"""The vsock program for guests is the one built from its source."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "firmware" / "linux"


def test_program_when_built_again_has_the_same_bytes(tmp_path: Path) -> None:
    if shutil.which("gcc") is None or shutil.which("make") is None:
        pytest.skip("no gcc and make to build the program with")
    make = ["make", "-s", "-C", str(FOLDER)]
    tools = subprocess.run([*make, "tools"], check=True, capture_output=True, text=True).stdout
    if tools != (FOLDER / "BUILT-WITH").read_text():
        pytest.skip(f"the program was built with other tools than {' and '.join(tools.split(chr(10)))}")

    subprocess.run([*make, f"OUT={tmp_path / 'vsock'}"], check=True)

    assert (tmp_path / "vsock").read_bytes() == (FOLDER / "vsock.x86_64").read_bytes()
