"""The zero page is read back by the offsets of boot.rst and zero-page.rst."""

from __future__ import annotations

import struct

import pytest

from pyvmm.boot.entry import LONG, PROTECTED
from pyvmm.boot.errors import DoesNotFitError, ImageError
from pyvmm.boot.x86 import lowmem
from pyvmm.boot.x86.bzimage import BzImage, load_bzimage
from tests.support.images import CODE, MIB, bzimage, params, ram


def test_load_bzimage_when_it_has_a_64_bit_entry_starts_there() -> None:
    with ram(64 * MIB) as memory:
        entry = load_bzimage(memory, bzimage(), params(memory))

        assert (entry.mode, entry.ip) == (LONG, 16 * MIB + 0x200)
        assert (entry.gdt, entry.page_tables) == (lowmem.GDT, lowmem.PAGE_TABLES)
        assert entry.registers["rsi"] == lowmem.ZERO_PAGE
        assert memory.read(16 * MIB, 64) == CODE


@pytest.mark.parametrize(("version", "xloadflags"), [(0x20F, 0), (0x20B, 1)])
def test_load_bzimage_when_it_has_no_64_bit_entry_starts_at_the_32_bit_one(
    version: int, xloadflags: int
) -> None:
    with ram(64 * MIB) as memory:
        entry = load_bzimage(memory, bzimage(version=version, xloadflags=xloadflags), params(memory))

    assert (entry.mode, entry.ip, entry.page_tables) == (PROTECTED, 16 * MIB, 0)
    # "%ebp, %edi and %ebx must be zero": they are not named.
    assert set(entry.registers) == {"rsi", "rsp"}


def test_load_bzimage_when_not_relocatable_loads_at_1_mib() -> None:
    with ram(64 * MIB) as memory:
        entry = load_bzimage(memory, bzimage(relocatable=0), params(memory))

        page = memory.read(lowmem.ZERO_PAGE, 4096)

    assert entry.ip == MIB + 0x200
    assert struct.unpack_from("<I", page, 0x214) == (MIB,)  # code32_start


def test_load_bzimage_when_loaded_has_its_setup_header_in_the_zero_page_and_nothing_else_of_it() -> None:
    image = bzimage()
    with ram(64 * MIB) as memory:
        given = params(memory, "root=/dev/vda", b"one", b"two", rsdp=lowmem.RSDP)

        load_bzimage(memory, image, given)

        page = memory.read(lowmem.ZERO_PAGE, 4096)
        cmdline, base, size = (struct.unpack_from("<I", page, at)[0] for at in (0x228, 0x218, 0x21C))
        assert memory.read(cmdline, 14) == b"root=/dev/vda\0"
        assert memory.read(base, size) == b"one\0two"
    assert page[0x1EF] == 0
    assert page[0x200:0x210] == image[0x200:0x210]
    assert page[0x234:0x26C] == image[0x234:0x26C]
    assert page[0x26C:0x2D0] == bytes(100)
    assert page[0x210] == 0xFF  # type_of_loader: undefined
    assert struct.unpack_from("<H", page, 0x1FA) == (0xFFFF,)  # vid_mode: normal
    assert struct.unpack_from("<I", page, 0x214) == (16 * MIB,)
    assert struct.unpack_from("<Q", page, 0x70) == (0xE0000,)
    assert page[0x1E8] == len(given.e820)
    assert [struct.unpack_from("<QQI", page, 0x2D0 + 20 * i) for i in range(3)] == given.e820


def test_load_bzimage_when_the_protocol_knows_no_rsdp_leaves_it_zero() -> None:
    with ram(64 * MIB) as memory:
        load_bzimage(memory, bzimage(version=0x20D), params(memory, rsdp=lowmem.RSDP))

        assert memory.read(lowmem.ZERO_PAGE + 0x70, 8) == bytes(8)


def test_load_bzimage_when_the_command_line_is_too_long_for_this_kernel_refuses() -> None:
    with ram(64 * MIB) as memory:
        load_bzimage(memory, bzimage(cmdline_size=9), params(memory, "123456789"))
        with pytest.raises(DoesNotFitError, match="10 bytes, but at most 9"):
            load_bzimage(memory, bzimage(cmdline_size=9), params(memory, "1234567890"))


def test_load_bzimage_when_memory_is_too_small_to_decompress_refuses() -> None:
    with (
        ram(19 * MIB) as memory,
        pytest.raises(DoesNotFitError, match=r"room it decompresses to.*give the guest more"),
    ):
        load_bzimage(memory, bzimage(), params(memory))


def test_load_bzimage_when_the_initrd_is_larger_than_memory_refuses() -> None:
    with ram(24 * MIB) as memory, pytest.raises(DoesNotFitError, match="give the guest more memory"):
        load_bzimage(memory, bzimage(), params(memory, "", bytes(20 * MIB)))


def test_load_bzimage_when_the_initrd_fits_stays_clear_of_the_decompressing_kernel() -> None:
    with ram(21 * MIB) as memory:
        load_bzimage(memory, bzimage(), params(memory, "", bytes(MIB)))

        assert memory.read(lowmem.ZERO_PAGE + 0x218, 4) == struct.pack("<I", 20 * MIB)


def test_load_bzimage_when_the_memory_map_is_too_long_refuses() -> None:
    with ram(64 * MIB) as memory:
        given = params(memory)
        given.e820 = [(MIB, 64 * MIB - MIB, 1)] * 129
        with pytest.raises(ImageError, match="129 ranges, but Linux boot parameters hold 128"):
            load_bzimage(memory, bzimage(), given)


def _patched(offset: int, data: bytes) -> bytes:
    image = bytearray(bzimage(b"payload"))
    image[offset : offset + len(data)] = data
    return bytes(image)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (bzimage()[:0x207], "setup header of this bzImage would end at byte 656"),
        (bzimage()[:0x28F], "setup header of this bzImage would end at byte 656"),
        (bzimage()[:0x400], "real-mode part of this bzImage"),
        (
            bzimage()[:0x420],
            "protected-mode code of this bzImage would end at byte 2048, but the file has only 1056",
        ),
        (bzimage(version=0x205), "boot protocol 2.05; 2.06 and a bzImage"),
        (bzimage(loadflags=0), "2.06 and a bzImage are the least"),
        (_patched(0x1FE, b"\0\0"), "magic number HdrS"),
        (_patched(0x202, b"hDRs"), "magic number HdrS"),
        (_patched(0x1F1, b"\xff"), "real-mode part of this bzImage would end at byte 131072"),
        (_patched(0x1F4, b"\xff\xff\xff\xff"), "protected-mode code"),
        (_patched(0x1F4, bytes(4)), "cut short"),
        (_patched(0x248, b"\xff\xff\xff\xff"), r"payload of this bzImage \(7 bytes at 4294967295\)"),
        (_patched(0x24C, b"\xff\xff\xff\xff"), "payload of this bzImage"),
    ],
)
def test_bzimage_when_the_file_is_wrong_says_how(image: bytes, sentence: str) -> None:
    with pytest.raises(ImageError, match=sentence):
        BzImage(image)


@pytest.mark.parametrize("field", [b"\0\0\0\xff\0\0\0\0", b"\xff" * 8, b"\0\0\0\0\x01\0\0\0"])
def test_load_bzimage_when_the_preferred_address_is_absurd_refuses(field: bytes) -> None:
    with (
        ram((3 << 30) + 1024 * MIB) as memory,
        pytest.raises(ImageError, match=r"not all RAM|above 4 GiB|beyond the end"),
    ):
        load_bzimage(memory, _patched(0x258, field), params(memory))


def _borrowed(version: int = 0x207, setup: bytes = b"iPXE 1.0.0+git", **fields: int) -> bytes:
    """An image with a Linux kernel's header whose protected-mode part is no 32-bit code, as iPXE's .lkrn."""
    image = bytearray(bzimage(version=version, xloadflags=0, relocatable=0, cmdline_size=0x7FF))
    struct.pack_into("<H", image, 0x20E, 0x300 - 0x200)
    image[0x300 : 0x300 + len(setup) + 1] = setup + b"\0"
    struct.pack_into("<I", image, 0x214, fields.get("code32_start", 0))
    struct.pack_into("<I", image, 0x230, fields.get("kernel_alignment", 0))
    return bytes(image)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (
            _borrowed(),
            r"this image \(iPXE 1.0.0\+git\) has a Linux kernel's header but names no 32-bit entry .* BIOS",
        ),
        (_borrowed(setup=b""), r"this image has a Linux"),
        (
            _borrowed(0x203, b"MEMDISK 6.04"),
            r"this kernel \(MEMDISK 6.04\) speaks boot protocol 2.03.* calls a BIOS",
        ),
    ],
)
def test_bzimage_when_only_its_16_bit_code_can_start_it_names_the_bios(image: bytes, sentence: str) -> None:
    with pytest.raises(ImageError, match=sentence):
        BzImage(image)


@pytest.mark.parametrize("field", ["code32_start", "kernel_alignment"])
def test_bzimage_when_its_header_has_an_entry_point_is_a_kernel(field: str) -> None:
    assert BzImage(_borrowed(**{field: 0x1000})).version == 0x207
