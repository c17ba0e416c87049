"""Power-off and reset by the ports of other boards, and what a kernel finds below 1 MiB."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pyvmm.config import Config
from pyvmm.machine.ending import OK, TOLD, Ending
from pyvmm.machine.machine import Machine
from tests.support import programs
from tests.support.firmware_guest import WATCHDOG, Transcript
from tests.support.programs import PASS, inb, outb

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]


def outw(port: int, value: int) -> bytes:
    """mov dx, port; mov ax, value; out dx, ax"""
    return struct.pack("<BHBHB", 0xBA, port, 0xB8, value, 0xEF)


@pytest.mark.parametrize(
    "code",
    [
        outw(0x604, 0x2000),
        outw(0xB004, 0x2000),
        outw(0x4004, 0x3400),
        outb(0x600, 0x34),
        outb(0x605, 0x20),
        outb(0x8900, *b"Shutdown"),
    ],
    ids=["QEMU", "Bochs", "VirtualBox", "ACPI sleep control", "a byte", "Shutdown"],
)
def test_guest_when_it_writes_a_board_s_power_port_is_off(tmp_path: Path, code: bytes) -> None:
    ending = programs.machine(tmp_path, code).run()

    assert (ending.code, ending.reason, ending.known) == (OK, "poweroff", TOLD)


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (outb(0xCF9, 0x02, 0x06), "reset control register"),
        (outb(0x92, 0x03), "system control port A"),
        (outb(0x64, 0xFE), "keyboard controller"),
        (outw(0x64, 0x00FE), "keyboard controller"),
    ],
)
def test_guest_when_it_writes_a_reset_port_reboots(tmp_path: Path, code: bytes, how: str) -> None:
    ending = programs.machine(tmp_path, code).run()

    assert (ending.code, ending.reason, ending.known) == (OK, "reboot", TOLD)
    assert how in ending.detail


def test_guest_that_switches_a20_on_through_port_a_goes_on(tmp_path: Path) -> None:
    # in al, 0x92; or al, 2; out 0x92, al
    assert programs.machine(tmp_path, inb(0x92) + bytes.fromhex("0c02 ee") + PASS).run().code == 32


def multiboot(tmp_path: Path, code: bytes, base: int = 0x100000) -> Ending:
    """How a multiboot kernel of 32-bit *code* at *base* ends."""
    path = tmp_path / "kernel"
    path.write_bytes(programs.multiboot(code, base))
    config = Config(kernel=str(path), console="none", timeout=WATCHDOG, memory="2M")
    return Machine(config, console=Transcript()).run()


#: mov dx, 0x501; out dx, al; hlt
EXIT = bytes.fromhex("66ba0105 ee f4")


@pytest.mark.parametrize(
    ("address", "value"),
    [(0x400, 0xF8), (0x401, 0x03), (0x40E, 0xC0), (0x40F, 0x9F), (0x413, 0x7F), (0x414, 0x02), (0x9FC00, 1)],
)
def test_kernel_when_it_reads_the_bios_data_area_finds_a_pc_s(
    tmp_path: Path, address: int, value: int
) -> None:
    # mov al, [address]
    ending = multiboot(tmp_path, b"\xa0" + struct.pack("<I", address) + EXIT)

    assert ending.code == 32 + (value & 31)
    assert f"{value:#x}" in ending.detail


def test_kernel_when_it_asks_pci_for_function_4_is_not_reset(tmp_path: Path) -> None:
    # mov dx, 0xcf8; mov eax, 0x80000400; out dx, eax; add dl, 4; in eax, dx; and al, 31
    code = bytes.fromhex("66baf80c b800040080 ef 80c204 ed 241f")
    assert multiboot(tmp_path, code + EXIT).code == 32 + 31


@pytest.mark.parametrize(("load", "selector"), [("8cc8", 0x08), ("8cd8", 0x10), ("8cd0", 0x10)])
def test_kernel_when_started_by_multiboot_has_the_selectors_of_qemu(
    tmp_path: Path, load: str, selector: int
) -> None:
    # mov eax, cs or ds or ss
    assert multiboot(tmp_path, bytes.fromhex(load) + EXIT).code == 32 + selector


@pytest.mark.parametrize("base", [0x600, 0x7000, 0x8000, 0x30000])
def test_kernel_when_linked_below_1_mib_is_loaded_there(tmp_path: Path, base: int) -> None:
    # mov al, 9
    assert multiboot(tmp_path, b"\xb0\x09" + EXIT, base).code == 41


def test_kernel_with_a_cursor_in_the_crt_controller_reads_it_back(tmp_path: Path) -> None:
    # mov dx, 0x3d4; mov al, 14; out dx, al; inc edx; in al, dx (0 at first); or al, 7; out dx, al; in al, dx
    code = bytes.fromhex("66bad403 b00e ee 42 ec 0c07 ee ec")
    assert multiboot(tmp_path, code + EXIT).code == 32 + 7
