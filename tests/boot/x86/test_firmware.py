from __future__ import annotations

import pytest

from pyvmm.boot.entry import LONG, PROTECTED, REAL
from pyvmm.boot.errors import ImageError
from pyvmm.boot.x86 import lowmem
from pyvmm.boot.x86.firmware import is_elf, load_firmware_elf, load_firmware_rom
from tests.support.images import CODE, MIB, bzimage, elf, pe, ram

RESET = b"\xea\x00\x00\x00\xf0".ljust(16, b"\0")  # jmp 0xf000:0


@pytest.mark.parametrize("size", [0x1000, 0x10000, 0x20000, 0x40000, 16 * MIB])
def test_load_firmware_rom_when_in_whole_pages_ends_at_4_gib_and_at_1_mib(size: int) -> None:
    data = bytes(range(256)) * (size // 256 - 1) + bytes(240) + RESET

    rom = load_firmware_rom(data)

    assert rom.data == data
    assert rom.base + size == 1 << 32
    assert rom.low == data[-0x20000:]
    assert rom.low_base + len(rom.low) == 0x100000
    assert (rom.entry.mode, rom.entry.ip) == (REAL, None)


def test_load_firmware_rom_when_not_in_whole_pages_is_padded_at_the_front() -> None:
    rom = load_firmware_rom(CODE + RESET)

    assert rom.data == bytes(4096 - 80) + CODE + RESET
    assert rom.base == 0xFFFFF000


@pytest.mark.parametrize("size", [128, 256, 512])
def test_seabios_that_goes_on_without_pci_is_shadowed_in_ram(size: int) -> None:
    marks = b"SeaBIOS (version 1) Detected non-PCI system etc/table-loader"

    rom = load_firmware_rom(marks.ljust((size << 10) - 16) + RESET)

    assert rom.shadowed
    assert rom.places == [(0x1_0000_0000 - (size << 10), 0, size << 10, "firmware ROM")]
    assert len(rom.low) == min(size, 256) << 10
    assert rom.low_base + len(rom.low) == 0x100000
    assert rom.low.endswith(RESET)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "firmware is empty"),
        (bytes(16 * MIB) + RESET, "at most 16777216"),
        (bytes(0x10000), "no instruction at the reset vector"),
        (b"\xff" * 0x10000, "no instruction at the reset vector"),
        (b"SeaBIOS (version 1)" + RESET, "SeaBIOS and needs PCI and fw_cfg"),
        (bytes(40) + b"_FVH" + RESET, "UEFI firmware and needs PCI, flash"),
        (b"etc/table-loader" + RESET, "qboot.* needs fw_cfg"),
        (bzimage(), r"this is a Linux kernel \(bzImage\), not firmware; a kernel is given with --kernel"),
        (b"\xeb\x3c\x90".ljust(510, b"x") + b"\x55\xaa", "a boot sector or disk image, which a BIOS starts"),
        (pe([(".text", b"x" * 5000)]), "this is an EFI application for x86-64, not firmware"),
        (pe([(".linux", bzimage())]), "not firmware; a kernel is given with --kernel"),
        (b"LARCHIVE" + RESET, "coreboot and needs the chipset"),
    ],
)
def test_load_firmware_rom_when_it_cannot_work_says_why(data: bytes, sentence: str) -> None:
    with pytest.raises(ImageError, match=sentence):
        load_firmware_rom(data)


@pytest.mark.parametrize(
    "start", [b"MZ", b"MZ" + bytes(0x3A) + b"\x40\0\0\0PE", b"\xf4".ljust(510) + b"\x55\xaa"]
)
def test_load_firmware_rom_when_it_begins_as_something_else_by_chance_is_a_rom(start: bytes) -> None:
    assert load_firmware_rom(start.ljust(0x1000 - 16, b"\x90") + RESET).base == 0xFFFFF000


def test_load_firmware_elf_when_32_bit_starts_in_protected_mode() -> None:
    with ram(16 * MIB) as memory:
        entry = load_firmware_elf(memory, elf([(0x10000, CODE, 0x100)], 0x10008, 32))

        assert memory.read(0x10000, 64) == CODE
    assert (entry.mode, entry.ip, entry.gdt, entry.page_tables) == (PROTECTED, 0x10008, lowmem.GDT, 0)
    assert entry.registers == {"rsp": lowmem.STACK_TOP}


def test_load_firmware_elf_when_64_bit_starts_in_long_mode() -> None:
    with ram(16 * MIB) as memory:
        entry = load_firmware_elf(memory, elf([(MIB, CODE, 0x100)], MIB))

    assert (entry.mode, entry.ip, entry.page_tables) == (LONG, MIB, lowmem.PAGE_TABLES)


def test_load_firmware_elf_when_it_covers_the_page_tables_refuses() -> None:
    with (
        ram(16 * MIB) as memory,
        pytest.raises(ImageError, match="overlaps the page tables at 0x9000-0xefff"),
    ):
        load_firmware_elf(memory, elf([(0xE000, CODE, 0x4000)], 0xE000))


def test_load_firmware_elf_when_entered_above_4_gib_refuses() -> None:
    with (
        ram((3 << 30) + 64 * MIB) as memory,
        pytest.raises(ImageError, match="above 4 GiB, where nothing is mapped"),
    ):
        load_firmware_elf(memory, elf([(1 << 32, CODE, 0x1000)], 1 << 32))


def test_is_elf_when_given_a_rom_says_no() -> None:
    assert is_elf(elf([(MIB, CODE, 64)], MIB))
    assert not is_elf(RESET)
    assert not is_elf(b"")


def test_load_firmware_elf_when_it_names_an_interpreter_starts_it() -> None:
    with ram(4 * MIB) as memory:
        assert load_firmware_elf(memory, elf([(MIB, CODE, 64)], MIB, extra=[3])).ip == MIB
