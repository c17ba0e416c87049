"""The information structure is read back by the offsets of the specification, section 3.3."""

from __future__ import annotations

import struct

import pytest

from pyvmm.boot.entry import PROTECTED
from pyvmm.boot.errors import DoesNotFitError, ImageError
from pyvmm.boot.x86 import lowmem
from pyvmm.boot.x86.multiboot import find_header, load_multiboot
from tests.support.images import CODE, MIB, multiboot_elf, multiboot_header, params, ram


@pytest.mark.parametrize("bits", [32, 64])
def test_load_multiboot_when_an_elf_file_enters_protected_mode_with_the_magic(bits: int) -> None:
    with ram(16 * MIB) as memory:
        entry = load_multiboot(memory, multiboot_elf(multiboot_header(), bits), params(memory))

        assert memory.read(MIB + 0x100, 64) == CODE
    assert (entry.mode, entry.ip, entry.gdt) == (PROTECTED, MIB + 0x100, lowmem.GDT)
    assert entry.registers == {"rax": 0x2BADB002, "rbx": lowmem.MULTIBOOT_INFO}


def test_load_multiboot_when_loaded_describes_memory_modules_and_command_line() -> None:
    with ram(16 * MIB, 3 << 30) as memory:
        given = params(memory, "quiet", b"first", b"", b"second module")

        load_multiboot(memory, multiboot_elf(multiboot_header()), given)

        info = memory.read(lowmem.MULTIBOOT_INFO, 116)
        flags, mem_lower, mem_upper = struct.unpack_from("<3I", info)
        cmdline, mods_count, mods_addr = struct.unpack_from("<3I", info, 16)
        mmap_length, mmap_addr = struct.unpack_from("<2I", info, 44)
        (name,) = struct.unpack_from("<I", info, 64)
        mods = [struct.unpack("<4I", memory.read(mods_addr + 16 * i, 16)) for i in range(mods_count)]
        assert flags == 0b10_0100_1101
        assert (mem_lower, mem_upper) == (639, (3 << 20) - 1024)
        assert memory.read(cmdline, 6) == b"quiet\0"
        assert memory.read(name, 6) == b"pyvmm\0"
        assert [memory.read(start, end - start) if end > start else b"" for start, end, _, _ in mods] == [
            b"first",
            b"",
            b"second module",
        ]
        assert all(start % 4096 == 0 and start >= MIB + 0x1000 for start, _, _, _ in mods)
        assert all(memory.read(string, 1) == b"\0" for _, _, string, _ in mods)
        found = list(struct.iter_unpack("<IQQI", memory.read(mmap_addr, mmap_length)))
    assert [entry[1:] for entry in found] == given.e820
    assert all(entry[0] == 20 for entry in found)


def test_load_multiboot_when_it_has_load_addresses_loads_by_them() -> None:
    # header at file offset 16, loaded from file offset 8 on
    header = multiboot_header(0x10003, 2 * MIB + 8, 2 * MIB, 0, 2 * MIB + 0x1000, 2 * MIB + 48)
    data = b"skipped!before h" + header.ljust(40, b"\0") + CODE
    with ram(16 * MIB) as memory:
        memory.write(2 * MIB, b"\xaa" * 0x2000)

        entry = load_multiboot(memory, data, params(memory))

        assert entry.ip == 2 * MIB + 48
        assert memory.read(2 * MIB, 0x1000) == data[8:].ljust(0x1000, b"\0")
        assert memory.read(2 * MIB + 0x1000, 1) == b"\xaa"


def _flat(*addresses: int) -> bytes:
    return multiboot_header(0x10003, *addresses) + CODE


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (CODE, "no multiboot header in its first 8 KiB"),
        (bytes(8192) + multiboot_header(), "no multiboot header"),
        (b"\0\0" + multiboot_header(), "no multiboot header"),
        (multiboot_header()[:11], "no multiboot header"),
        (multiboot_header(0x23), "unknown features .flags 0x20"),
        (multiboot_header() + CODE, "no ELF file and its header has no load addresses"),
        (multiboot_header(0x10003), "address fields are missing"),
        (_flat(MIB, MIB, MIB + 0x10000, 0, MIB), "ask for 65536 bytes from byte 0 of a file of 96"),
        (_flat(MIB, MIB, MIB - 1, 0, MIB), "ask for -1 bytes"),
        (_flat(MIB + 8, MIB, 0, 0, MIB), "from byte -8"),
        (_flat(MIB, MIB, 0, 0, 2 * MIB), "entry point 0x200000 lies outside"),
        (_flat(0x500, 0x500, 0, 0, 0x500), "overlaps the descriptor table"),
        (_flat(MIB, MIB, 0, 0xFFFFFFFF, MIB), "beyond the end of the guest's memory"),
    ],
)
def test_load_multiboot_when_it_cannot_be_loaded_says_why(data: bytes, sentence: str) -> None:
    with ram(16 * MIB) as memory, pytest.raises(ImageError, match=sentence):
        load_multiboot(memory, data, params(memory))


def test_load_multiboot_when_it_wishes_for_a_video_mode_loads_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ram(16 * MIB) as memory:
        assert load_multiboot(memory, multiboot_elf(multiboot_header(7)), params(memory)).ip

    assert "asks for a video mode, and this machine has no display" in caplog.text


def test_load_multiboot_when_a_module_is_larger_than_memory_refuses() -> None:
    with ram(16 * MIB) as memory, pytest.raises(DoesNotFitError, match="multiboot module goes to"):
        load_multiboot(memory, multiboot_elf(multiboot_header()), params(memory, "", bytes(16 * MIB)))


def test_load_multiboot_when_there_are_too_many_modules_refuses() -> None:
    with ram(16 * MIB) as memory, pytest.raises(DoesNotFitError, match="1100 multiboot modules"):
        load_multiboot(memory, multiboot_elf(multiboot_header()), params(memory, "", *[b"x"] * 1100))


def test_find_header_when_a_false_magic_comes_first_finds_the_true_one() -> None:
    data = struct.pack("<3I", 0x1BADB002, 1, 2) + multiboot_header()

    assert find_header(memoryview(data)) == 12
