"""SeaBIOS, as QEMU's packages have it, goes on without PCI: a BIOS on the serial port."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.firmware_guest import Transcript, guest

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

IMAGES = Path("/usr/share/seabios")


@pytest.mark.parametrize("name", ["bios-microvm.bin", "bios-256k.bin"])
def test_seabios_when_started_comes_to_its_end_without_a_disk(tmp_path: Path, name: str) -> None:
    if not (IMAGES / name).exists():
        pytest.skip(f"{IMAGES / name} is not installed: apt-get install seabios")
    console = Transcript()
    machine = guest(tmp_path, name, console=console, firmware=str(IMAGES / name), memory="32M").machine
    machine.start()
    try:
        console.wait_for(b"No bootable device", 60)
    finally:
        machine.stop()
        machine.wait()

    assert "SeaBIOS (version" in console.text
