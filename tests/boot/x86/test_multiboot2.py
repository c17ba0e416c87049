"""Tags are read back by the layouts of the specification, section 3.6."""

from __future__ import annotations

import struct

import pytest

from pyvmm.boot.entry import PROTECTED
from pyvmm.boot.errors import DoesNotFitError, ImageError
from pyvmm.boot.x86 import lowmem
from pyvmm.boot.x86.multiboot2 import load_multiboot2
from pyvmm.memory.guest import GuestMemory
from tests.support.images import CODE, MIB, multiboot2_header, multiboot2_tag, multiboot_elf, params, ram


def _tags(memory: GuestMemory) -> dict[int, list[bytes]]:
    total, reserved = struct.unpack("<2I", memory.read(lowmem.MULTIBOOT_INFO, 8))
    info = memory.read(lowmem.MULTIBOOT_INFO, total)
    assert reserved == 0
    found: dict[int, list[bytes]] = {}
    at = 8
    while at < total:
        kind, size = struct.unpack_from("<2I", info, at)
        found.setdefault(kind, []).append(info[at + 8 : at + size])
        at += -(-size // 8) * 8
        if kind == 0:
            break
    assert at == total
    return found


def test_load_multiboot2_when_loaded_gives_every_tag() -> None:
    rsdp = b"RSD PTR " + bytes(7) + b"\2" + bytes(range(20))
    with ram(16 * MIB) as memory:
        memory.write(lowmem.RSDP, rsdp)
        given = params(memory, "quiet", b"first", b"second", rsdp=lowmem.RSDP)

        entry = load_multiboot2(memory, multiboot_elf(multiboot2_header(), 64), given)

        tags = _tags(memory)
        modules = [(*struct.unpack_from("<2I", body), body[8:]) for body in tags[3]]
        assert [memory.read(start, end - start) for start, end, _ in modules] == [b"first", b"second"]
    assert (entry.mode, entry.ip) == (PROTECTED, MIB + 0x100)
    assert entry.registers == {"rax": 0x36D76289, "rbx": lowmem.MULTIBOOT_INFO}
    assert set(tags) == {0, 1, 2, 3, 4, 6, 15}
    assert tags[1] == [b"quiet\0"]
    assert tags[2] == [b"pyvmm\0"]
    assert tags[4] == [struct.pack("<2I", 639, 15 * 1024)]
    assert all(start % 4096 == 0 and string == b"\0" for start, _, string in modules)
    assert tags[6][0][:8] == struct.pack("<2I", 24, 0)
    assert [entry[:3] for entry in struct.iter_unpack("<QQII", tags[6][0][8:])] == given.e820
    assert tags[15] == [rsdp]


def test_load_multiboot2_when_the_rsdp_is_of_acpi_1_gives_the_old_tag() -> None:
    with ram(16 * MIB) as memory:
        memory.write(lowmem.RSDP, b"RSD PTR " + bytes(28))

        load_multiboot2(memory, multiboot_elf(multiboot2_header()), params(memory, rsdp=lowmem.RSDP))

        assert _tags(memory)[14] == [b"RSD PTR " + bytes(12)]


@pytest.mark.parametrize(("load_addr", "start"), [(2 * MIB, 8), (0xFFFFFFFF, 0)])
def test_load_multiboot2_when_it_has_an_address_tag_loads_by_it(load_addr: int, start: int) -> None:
    base = 2 * MIB if start else 2 * MIB - 8
    addresses = struct.pack("<4I", 2 * MIB, load_addr, 0, 2 * MIB + 0x1000)
    header = multiboot2_header(multiboot2_tag(2, addresses), multiboot2_tag(3, struct.pack("<I", base + 80)))
    data = b"8 bytes " + header + CODE
    with ram(16 * MIB) as memory:
        entry = load_multiboot2(memory, data, params(memory))

        assert memory.read(base, len(data) - start) == data[start:]
    assert entry.ip == base + 80


def test_load_multiboot2_when_an_elf_file_has_an_entry_tag_enters_there() -> None:
    header = multiboot2_header(multiboot2_tag(3, struct.pack("<I", MIB + 0x108)))
    with ram(16 * MIB) as memory:
        assert load_multiboot2(memory, multiboot_elf(header), params(memory)).ip == MIB + 0x108


@pytest.mark.parametrize(
    "tag",
    [
        multiboot2_tag(1, struct.pack("<3I", 4, 8, 21)),
        multiboot2_tag(1, struct.pack("<I", 99), optional=True),
        multiboot2_tag(4, struct.pack("<I", 2)),
        multiboot2_tag(5, struct.pack("<3I", 1024, 768, 32), optional=True),
        multiboot2_tag(6),
        multiboot2_tag(7),
        multiboot2_tag(10, struct.pack("<4I", 0, 1 << 31, 4096, 0)),
        multiboot2_tag(77, b"unknown", optional=True),
    ],
)
def test_load_multiboot2_when_a_tag_can_be_met_or_is_optional_loads(tag: bytes) -> None:
    with ram(16 * MIB) as memory:
        assert load_multiboot2(memory, multiboot_elf(multiboot2_header(tag)), params(memory)).ip


def _with(*tags: bytes) -> bytes:
    return multiboot_elf(multiboot2_header(*tags))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (CODE, "no multiboot2 header in its first 32 KiB"),
        (bytes(4) + multiboot2_header(), "no multiboot2 header"),
        (bytes(32768) + multiboot2_header(), "no multiboot2 header"),
        (multiboot_elf(multiboot2_header(architecture=4)), "for architecture 4"),
        (
            multiboot2_header(multiboot2_tag(5, bytes(12), True))[:20],
            "header of 48 bytes at byte 0 does not lie",
        ),
        (_with(multiboot2_tag(1, struct.pack("<I", 22))), "requires information tag 22"),
        (_with(multiboot2_tag(11)), "requires header tag 11"),
        (_with(multiboot2_tag(2, bytes(8))), "requires header tag 2, which is not known or broken"),
        (_with(multiboot2_tag(2, bytes(16))), "no entry address tag"),
        (_with(struct.pack("<HHI", 5, 1, 4)), "tag 5 claims 4 bytes, but 8 to 16"),
        (_with(struct.pack("<HHI", 5, 1, 4096)), "tag 5 claims 4096 bytes, but 8 to 16"),
        (multiboot2_header() + CODE, "no ELF file and its header has no load addresses"),
    ],
)
def test_load_multiboot2_when_it_cannot_be_loaded_says_why(data: bytes, sentence: str) -> None:
    with ram(16 * MIB) as memory, pytest.raises(ImageError, match=sentence):
        load_multiboot2(memory, data, params(memory))


@pytest.mark.parametrize(
    ("tag", "wish"),
    [
        (multiboot2_tag(5, struct.pack("<3I", 0, 0, 0)), "a framebuffer"),
        (multiboot2_tag(4, struct.pack("<I", 3)), "a text or graphics console"),
    ],
)
def test_load_multiboot2_when_it_wishes_for_a_display_loads_and_says_so(
    tag: bytes, wish: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ram(16 * MIB) as memory:
        assert load_multiboot2(memory, _with(tag), params(memory)).ip

    assert f"asks for {wish}, and this machine has no display" in caplog.text


def test_load_multiboot2_when_the_command_line_does_not_fit_refuses() -> None:
    with ram(16 * MIB) as memory, pytest.raises(DoesNotFitError, match="shorten the command line"):
        load_multiboot2(memory, _with(), params(memory, "a" * 20000))
