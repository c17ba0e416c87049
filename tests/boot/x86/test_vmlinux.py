"""struct hvm_start_info is read back by the offsets of Xen's start_info.h."""

from __future__ import annotations

import struct

import pytest

from pyvmm.boot.entry import LONG, PROTECTED
from pyvmm.boot.errors import DoesNotFitError, ImageError, NotAKernelError
from pyvmm.boot.x86 import lowmem
from pyvmm.boot.x86.bzimage import BzImage, load_bzimage
from pyvmm.boot.x86.params import BootParams
from pyvmm.boot.x86.vmlinux import load_elf
from tests.support.images import CODE, MIB, bzimage, elf, params, pvh_note, ram, vmlinux


def test_load_elf_when_it_has_a_pvh_note_enters_there_with_start_info_in_rbx() -> None:
    with ram(64 * MIB) as memory:
        given = params(memory, "console=ttyS0", b"initrd!", rsdp=lowmem.RSDP)

        entry = load_elf(memory, vmlinux(), given)

        info = memory.read(entry.registers["rbx"], 56)
        magic, version, flags, nr_modules = struct.unpack_from("<4I", info)
        modlist, cmdline, rsdp, memmap = struct.unpack_from("<4Q", info, 16)
        memmap_entries, reserved = struct.unpack_from("<2I", info, 48)
        assert (entry.mode, entry.ip, entry.gdt) == (PROTECTED, 16 * MIB + 0x20, lowmem.GDT)
        assert (magic, version, flags, nr_modules, reserved) == (0x336EC578, 1, 0, 1, 0)
        assert (rsdp, memmap_entries) == (0xE0000, 3)
        assert memory.read(cmdline, 14) == b"console=ttyS0\0"
        base, size, module_cmdline, _ = struct.unpack("<4Q", memory.read(modlist, 32))
        assert (memory.read(base, size), module_cmdline) == (b"initrd!", 0)
        found = struct.iter_unpack("<QQII", memory.read(memmap, 24 * memmap_entries))
        assert [entry[:3] for entry in found] == given.e820
        assert memory.read(16 * MIB, 4 * len(CODE)) == CODE * 4


def test_load_elf_when_pvh_has_no_initrd_lists_no_module() -> None:
    with ram(64 * MIB) as memory:
        entry = load_elf(memory, vmlinux(), params(memory))

        info = memory.read(entry.registers["rbx"], 56)

    assert struct.unpack_from("<IQ", info, 12) == (0, 0)


@pytest.mark.parametrize("protocol", ["auto", "linux64"])
def test_load_elf_when_started_by_the_64_bit_protocol_has_a_fresh_zero_page(protocol: str) -> None:
    image = vmlinux(note=protocol == "linux64")
    with ram(64 * MIB) as memory:
        given = params(memory, "quiet", b"abc", rsdp=lowmem.RSDP)

        entry = load_elf(memory, image, given, protocol)

        page = memory.read(entry.registers["rsi"], 4096)
        assert (entry.mode, entry.ip) == (LONG, 16 * MIB)
        assert (entry.gdt, entry.page_tables) == (lowmem.GDT, lowmem.PAGE_TABLES)
        assert struct.unpack_from("<H", page, 0x1FE) == (0xAA55,)
        assert page[0x202:0x206] == b"HdrS"
        assert page[0x210] == 0xFF
        assert page[0x1EF] == 0  # the sentinel must not be taken over
        assert struct.unpack_from("<Q", page, 0x70) == (0xE0000,)
        (cmdline,) = struct.unpack_from("<I", page, 0x228)
        assert memory.read(cmdline, 6) == b"quiet\0"
        base, size = struct.unpack_from("<II", page, 0x218)
        assert memory.read(base, size) == b"abc"
        table = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * i) for i in range(page[0x1E8])]
        assert table == given.e820


def test_load_elf_when_32_bit_without_a_note_starts_by_the_32_bit_protocol() -> None:
    with ram(64 * MIB) as memory:
        entry = load_elf(memory, vmlinux(note=False, bits=32), params(memory))

    assert (entry.mode, entry.ip, entry.registers["rsi"]) == (PROTECTED, 16 * MIB, lowmem.ZERO_PAGE)


def test_load_elf_when_the_command_line_is_longer_than_linux_takes_refuses() -> None:
    with ram(64 * MIB) as memory:
        load_elf(memory, vmlinux(), params(memory, "a" * 2047))
        with pytest.raises(DoesNotFitError, match="2048 bytes, but at most 2047"):
            load_elf(memory, vmlinux(), params(memory, "a" * 2048))


def test_load_elf_when_the_command_line_has_a_zero_byte_refuses() -> None:
    with ram(64 * MIB) as memory, pytest.raises(ImageError, match="contains a zero byte"):
        load_elf(memory, vmlinux(), params(memory, "a\0b"))


@pytest.mark.parametrize(
    ("image", "protocol", "sentence"),
    [
        (vmlinux(note=False), "pvh", "no PVH entry note"),
        (vmlinux(bits=32), "linux64", "32-bit kernel"),
        (
            elf([(16 * MIB, CODE, 64)], 0, note=pvh_note(MIB)),
            "auto",
            "entry point 0x100000 lies in no segment",
        ),
        (
            elf([(16 * MIB, CODE, 64)], 0, note=struct.pack("<3I4s16s", 4, 16, 18, b"Xen\0", CODE)),
            "auto",
            "PVH entry note of this ELF file has 16 bytes",
        ),
    ],
)
def test_load_elf_when_the_protocol_is_not_there_says_so(image: bytes, protocol: str, sentence: str) -> None:
    with ram(64 * MIB) as memory, pytest.raises(ImageError, match=sentence):
        load_elf(memory, image, params(memory), protocol)


@pytest.mark.parametrize("note", [pvh_note(16 * MIB), struct.pack("<3I4s4I", 4, 16, 1, b"GNU\0", 0, 3, 2, 0)])
@pytest.mark.parametrize("protocol", ["auto", "elf"])
def test_load_elf_when_it_names_an_interpreter_starts_a_kernel_and_what_the_user_calls_one(
    note: bytes, protocol: str
) -> None:
    image = elf([(16 * MIB, CODE, 64)], 16 * MIB, note=note, extra=[3])
    with ram(64 * MIB) as memory:
        if protocol == "auto" and b"GNU" in note:
            with pytest.raises(NotAKernelError, match="no PVH note; give a kernel, or --boot elf"):
                load_elf(memory, image, params(memory), protocol)
        else:
            assert load_elf(memory, image, params(memory), protocol).ip == 16 * MIB


LITTLE_BELOW_4_GIB = [(0, 0x9FC00, 1), (MIB, 39 * MIB, 1), (1 << 32, 64 * MIB, 1)]


@pytest.mark.parametrize("way", ["elf", "bzimage"])
def test_load_when_an_initrd_has_room_only_above_4_gib_starts_a_kernel_that_takes_it_by_the_64_bit_protocol(
    way: str,
) -> None:
    able = BzImage(bzimage(b"payload", xloadflags=3))
    with ram(3 << 30, 64 * MIB) as memory:
        given = BootParams("quiet", [b"large" * (5 * MIB)], LITTLE_BELOW_4_GIB)
        if way == "elf":
            entry = load_elf(memory, vmlinux(), given, header=able)
        else:
            entry = load_bzimage(memory, able.data, given)
        page = memory.read(lowmem.ZERO_PAGE, 4096)
        low, size = struct.unpack_from("<II", page, 0x218)
        high, more = struct.unpack_from("<II", page, 0x0C0)

        assert (entry.mode, entry.registers["rsi"]) == (LONG, lowmem.ZERO_PAGE)
        assert (high, more, size) == (1, 0, 25 * MIB)
        assert memory.read((high << 32) + low, 10) == b"largelarge"


@pytest.mark.parametrize(
    ("image", "header", "protocol"),
    [
        (vmlinux(), BzImage(bzimage(b"payload", xloadflags=1)), "auto"),
        (vmlinux(), None, "auto"),
        (vmlinux(note=False), None, "linux64"),
    ],
)
def test_load_elf_when_the_kernel_takes_no_initrd_above_4_gib_says_where_it_wants_it(
    image: bytes, header: BzImage | None, protocol: str
) -> None:
    given = BootParams("quiet", [bytes(25 * MIB)], LITTLE_BELOW_4_GIB)
    with (
        ram(3 << 30, 64 * MIB) as memory,
        pytest.raises(
            DoesNotFitError, match=r"no such room below 0x(8|10)0000000, where this kernel wants it"
        ),
    ):
        load_elf(memory, image, given, protocol, header)


def test_load_elf_when_an_initrd_has_room_only_above_2_gib_is_given_it_by_pvh() -> None:
    e820 = [(0, 0x9FC00, 1), (MIB, 39 * MIB, 1), (0x8000_0000, 64 * MIB, 1)]
    with ram(3 << 30) as memory:
        entry = load_elf(memory, vmlinux(), BootParams("quiet", [bytes(25 * MIB)], e820))

        (base,) = struct.unpack("<Q", memory.read(lowmem.PVH_MODLIST, 8))
    assert (entry.mode, base) == (PROTECTED, 0x8000_0000 + 39 * MIB)
