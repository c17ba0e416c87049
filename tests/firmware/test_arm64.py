"""Most of the arm64 guest programs report the same on QEMU's emulation, independent of this VMM."""

from __future__ import annotations

import selectors
import shutil
import subprocess
import time
from pathlib import Path

import pytest

BIN = Path(__file__).resolve().parents[2] / "firmware" / "arm64" / "bin"
QEMU = "qemu-system-aarch64"
LIMIT = 30


def said(program: Path, cpus: int = 1) -> str:
    """The output of *program* on QEMU's ``virt`` board up to its report; it cannot end that machine."""
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
    "name", ["exceptions", "fw_cfg", "gic_sgi", "hello", "psci", "rom_write", "rtc", "smp", "sweep", "timer"]
)
def test_program_when_run_by_qemu_passes(name: str) -> None:
    assert said(BIN / f"{name}.bin").startswith(f"ok {name}")


def test_smp_when_qemu_has_three_cpus_starts_them_all(tmp_path: Path) -> None:
    program = bytearray((BIN / "smp.bin").read_bytes())
    program[16:24] = (3).to_bytes(8, "little")
    path = tmp_path / "smp.bin"
    path.write_bytes(program)

    assert said(path, 3) == "ok smp 0x3\n"
