"""scripts/kvm-unit-tests runs a folder of flat images under pyvmm and tells how each ended."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import multiboot
from tests.support.repository import ROOT

SCRIPT = ROOT / "scripts" / "kvm-unit-tests"

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]


def image(value: int) -> bytes:
    """A kernel that asks fw_cfg for the number of CPUs, and adds *value* less 1 to it for its end."""
    # mov edx, 0x510; mov eax, 5; out dx, ax; inc edx; xor eax, eax; in al, dx
    code = bytes.fromhex("ba10050000 b805000000 66ef 42 31c0 ec")
    # add eax, value - 1; mov edx, 0xf4; out dx, eax; hlt
    code += b"\x05" + (value - 1 & 0xFFFF_FFFF).to_bytes(4, "little")
    return multiboot(code + bytes.fromhex("baf4000000 ef f4"))


def test_script_when_given_a_folder_tells_how_each_image_ended(tmp_path: Path) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed: apt-get install qemu-system-x86")
    for name, value in {"passes": 0, "fails": 1, "skips": 38, "aborts": 63, "odd": 5}.items():
        (tmp_path / f"{name}.flat").write_bytes(image(value))

    command = [sys.executable, str(SCRIPT), str(tmp_path), "--timeout", "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)

    found = dict(re.findall(r"^(\w+) .* pyvmm (pass|fail|skip|abort|value 5) ", done.stdout, re.MULTILINE))
    wanted = {"passes": "pass", "fails": "fail", "skips": "skip", "aborts": "abort", "odd": "value 5"}
    assert found == wanted, done
    assert (done.returncode, done.stderr) == (0, "")


def test_script_when_the_folder_has_no_such_image_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), "realmode"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert f"{tmp_path} has no realmode" in done.stderr
