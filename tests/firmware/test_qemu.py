"""The guest programs report the same on QEMU's emulation, independent of this VMM."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

BIN = Path(__file__).resolve().parents[2] / "firmware" / "x86_64" / "bin"
QEMU = shutil.which("qemu-system-x86_64")

pytestmark = pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")

#: What QEMU's isa-debug-exit makes of a byte v written: status (v << 1) | 1.
PASSED = 1
MICROVM = "microvm"
PC = "pc"
#: Memory-like registers at port 0xe0 and address 0xff000000.
TESTDEV = ("-device", "pc-testdev")


def qemu(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert QEMU is not None
    command = [
        QEMU,
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        "64",
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
    ]
    command += ["-serial", "stdio", "-device", "isa-debug-exit,iobase=0x501,iosize=4", *options]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
    )


def qemu_rom(
    tmp_path: Path, name: str, machine: str, parameters: tuple[int, ...] = (), *options: str
) -> tuple[int, str]:
    """Status and console of one ROM, padded to the multiple of 64 KiB that QEMU asks for."""
    rom = bytearray((BIN / name).read_bytes())
    for number, value in enumerate(parameters):
        struct.pack_into("<Q", rom, len(rom) - 48 + 8 * number, value)
    path = tmp_path / "rom"
    path.write_bytes(bytes(-len(rom) % (64 << 10)) + rom)
    done = qemu(tmp_path, "-M", machine, "-bios", str(path), *options)
    return done.returncode, done.stdout


def test_exit_rom_when_run_by_microvm_as_it_is_passes(tmp_path: Path) -> None:
    done = qemu(tmp_path, "-M", MICROVM, "-bios", str(BIN / "exit.bin"))

    assert done.returncode == PASSED


@pytest.mark.parametrize(
    ("name", "machine", "parameters", "options"),
    [
        ("apic_timer", PC, (), ()),
        ("exceptions", MICROVM, (), ()),
        ("flood", PC, (), ()),
        ("fw_cfg", PC, (), ()),
        ("fw_cfg_dma", MICROVM, (), ()),
        ("ioapic_com1", PC, (), ()),
        ("mmio0", PC, (), TESTDEV),
        ("mmio3", PC, (), TESTDEV),
        ("paging32", MICROVM, (), ()),
        ("pci_probe", PC, (), ()),
        ("pic_timer", PC, (), ()),
        ("ports0", PC, (0, 1), TESTDEV),
        ("ports3", PC, (0, 1), TESTDEV),
        ("protected", MICROVM, (), ()),
        ("real_mode", MICROVM, (), ()),
        ("rom_write", PC, (), ()),
        ("seam0", MICROVM, (), ()),
        ("software_interrupt0", MICROVM, (), ()),
        ("software_interrupt3", MICROVM, (), ()),
        ("software_interrupt32", MICROVM, (), ()),
        ("string_io0", PC, (), TESTDEV),
        ("sweep", PC, (), ()),
        ("system_call", MICROVM, (), ()),
        ("unclaimed_ports", MICROVM, (0, 1), ()),
        ("unmapped", MICROVM, (0, 1), ()),
        ("user_mode", MICROVM, (), ()),
    ],
)
def test_program_when_run_by_qemu_passes(
    tmp_path: Path, name: str, machine: str, parameters: tuple[int, ...], options: tuple[str, ...]
) -> None:
    status, console = qemu_rom(tmp_path, f"{name}.bin", machine, parameters, *options)

    assert console.endswith(f"ok {name}\n"), console
    assert status == PASSED


def test_smp_rom_when_qemu_has_three_processors_starts_them_all(tmp_path: Path) -> None:
    status, console = qemu_rom(tmp_path, "smp.bin", PC, (), "-smp", "3")

    assert (status, console) == (PASSED, "ok smp 0x3\n")


@pytest.mark.parametrize("name", ["triple_fault", "reset_i8042"])
def test_resetting_rom_when_run_by_qemu_without_reboot_ends_it(tmp_path: Path, name: str) -> None:
    status, console = qemu_rom(tmp_path, f"{name}.bin", PC)

    assert (status, console) == (0, "")


def test_multiboot_kernel_when_loaded_by_qemu_reports_what_it_got(tmp_path: Path) -> None:
    (tmp_path / "module").write_text("the module")
    kernel = str(BIN / "multiboot1.elf")

    done = qemu(tmp_path, "-M", PC, "-kernel", kernel, "-append", "one two", "-initrd", "module")

    assert done.returncode == PASSED
    assert done.stdout.startswith("ok multiboot1 memory 0x3f")
    assert done.stdout.endswith(" one two' module 'the module'\n")
