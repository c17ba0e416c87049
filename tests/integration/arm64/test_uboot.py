"""Debian's U-Boot for QEMU's ``virt`` board, as ``--firmware``."""

from __future__ import annotations

import pytest

from pyvmm.config import Config
from pyvmm.images import debian
from pyvmm.machine.machine import Machine
from tests.support.firmware_guest import Transcript

pytestmark = [pytest.mark.arm64, pytest.mark.timeout(150)]


@pytest.fixture(scope="module")
def uboot() -> str:
    if "arm64/u-boot-qemu" not in debian.fetched():
        pytest.skip("U-Boot is not in the cache: pyvmm image fetch --arch arm64 u-boot-qemu")
    return str(debian.package("u-boot-qemu", "arm64").root / "usr/lib/u-boot/qemu_arm64/u-boot.bin")


@pytest.mark.parametrize(("command", "reason"), [(b"poweroff\r", "poweroff"), (b"reset\r", "reboot")])
def test_uboot_when_started_finds_its_board_and_ends_it(uboot: str, command: bytes, reason: str) -> None:
    console = Transcript([(b"stop autoboot", b"\r"), (b"=> ", command)])
    config = Config(firmware=uboot, console="none", timeout=100)

    with Machine(config, console=console) as machine:
        ending = machine.run()

    assert "DRAM:  256 MiB" in console.text
    assert "serial@9000000" in console.text
    assert (ending.code, ending.reason, ending.known) == (0, reason, "told"), ending
