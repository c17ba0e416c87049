from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from pyvmm.arch import native
from pyvmm.boot.elf import ARM64, X86, ElfImage, section
from pyvmm.boot.errors import DoesNotFitError, ImageError, NotAKernelError
from pyvmm.boot.x86.lowmem import KERNEL_RANGES
from tests.support.images import CODE, MIB, elf, elf_of_sections, pvh_note, ram

#: What a program linked with GNU's C library has: Linux, 3.2.0 at least.
ABI_TAG = struct.pack("<3I4s4I", 4, 16, 1, b"GNU\0", 0, 3, 2, 0)


@pytest.mark.parametrize("bits", [32, 64])
def test_elf_image_when_compared_with_pyelftools_reads_the_same(bits: int) -> None:
    data = elf([(2 * MIB, b"ab", 0x3000), (MIB, CODE, 0x100)], MIB + 4, bits, pvh_note(MIB))

    image, other = ElfImage(data), ELFFile(io.BytesIO(data))

    loads = [s.header for s in other.iter_segments() if s.header.p_type == "PT_LOAD"]
    assert {(s.offset, s.vaddr, s.paddr, s.filesz, s.memsz) for s in image.segments} == {
        (h.p_offset, h.p_vaddr, h.p_paddr, h.p_filesz, h.p_memsz) for h in loads
    }
    assert (image.bits, image.entry) == (other.elfclass, other.header.e_entry)
    notes = [n for s in other.iter_segments("PT_NOTE") for n in s.iter_notes()]
    assert image.note(b"Xen", 18) == notes[0].n_descdata


def test_section_when_compared_with_pyelftools_is_the_same() -> None:
    data = elf_of_sections({b".rodata.str": b"other", b".rodata": b"constants", b".data": b""})
    other = ELFFile(io.BytesIO(data))

    for name in (".rodata", ".data", ".shstrtab", ".bss"):
        found = section(data, name.encode())
        theirs = other.get_section_by_name(name)
        assert (found is None) == (theirs is None)
        assert found is None or bytes(found) == theirs.data()


def test_section_when_the_file_is_cut_or_changed_anywhere_is_nothing_worse_than_none() -> None:
    data = bytes(elf_of_sections({b".rodata": b"constants"}))
    changed = [data[:at] + b"\xff" * 8 + data[at + 8 :] for at in range(0, len(data), 4)]

    for broken in [*changed, *(data[:end] for end in range(len(data)))]:
        found = section(memoryview(broken), b".rodata")
        assert found is None or len(found) <= len(broken)


def test_elf_load_when_memory_is_dirty_writes_the_file_and_clears_the_rest() -> None:
    with ram(16 * MIB) as memory:
        memory.write(MIB, b"\xaa" * 0x3000)

        ElfImage(elf([(MIB, b"payload", 0x2000)], MIB)).load(memory, KERNEL_RANGES)

        assert memory.read(MIB, 0x2000) == b"payload".ljust(0x2000, b"\0")
        assert memory.read(MIB + 0x2000, 1) == b"\xaa"


def test_elf_load_when_a_segment_crosses_host_objects_writes_across_the_seam() -> None:
    with ram(2 * MIB, 2 * MIB) as memory:
        ElfImage(elf([(2 * MIB - 3, b"abcdef", 0x1000)], 2 * MIB)).load(memory, KERNEL_RANGES)

        assert memory.read(2 * MIB - 3, 6) == b"abcdef"


@pytest.mark.parametrize(
    ("segments", "sentence"),
    [
        (
            [(0x700000, CODE, 0x200000), (0x800000, CODE, 0x1000)],
            "0x700000-0x8fffff and 0x800000-0x800fff overlap",
        ),
        ([(0x7000, CODE, 0x1000)], "overlaps the Linux boot parameters"),
        ([(0x9000, CODE, 0x1000)], "overlaps the page tables"),
        ([(0x9FF00, CODE, 0x1000)], "overlaps the MP table"),
        ([(0, CODE, 2 * MIB)], "overlaps the descriptor table"),
        ([(15 * MIB, CODE, 2 * MIB)], "beyond the end of the guest's memory at 0x1000000"),
        ([(1 << 40, CODE, 64)], "beyond the end of the guest's memory"),
        ([((1 << 64) - 0x1000, CODE, 0x2000)], "beyond the end of the guest's memory"),
    ],
)
def test_elf_load_when_a_segment_cannot_be_placed_refuses(
    segments: list[tuple[int, bytes, int]], sentence: str
) -> None:
    image = ElfImage(elf(segments, 0))
    with ram(16 * MIB) as memory, pytest.raises(ImageError, match=sentence):
        image.load(memory, KERNEL_RANGES)


def test_elf_load_when_a_segment_reaches_into_the_gap_refuses() -> None:
    with ram((3 << 30) + 64 * MIB) as memory, pytest.raises(DoesNotFitError, match="which is not all RAM"):
        ElfImage(elf([(0xC0000000 - 0x1000, CODE, 0x2000)], 0)).load(memory, KERNEL_RANGES)


def test_elf_load_when_it_refuses_has_written_nothing() -> None:
    with ram(16 * MIB) as memory:
        with pytest.raises(DoesNotFitError):
            ElfImage(elf([(MIB, CODE, 64), (32 * MIB, CODE, 64)], MIB)).load(memory, KERNEL_RANGES)

        assert memory.read(MIB, 64) == bytes(64)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"\x7fELF", "ELF header would end at byte 52, but the file has only 4"),
        (elf([(MIB, CODE, 64)], MIB)[:60], "ELF header would end at byte 64"),
        (elf([(MIB, CODE, 64)], MIB)[:100], "ELF program headers would end at byte 120"),
        (elf([(MIB, CODE, 64)], MIB)[:150], "ELF segment 0 would end at byte 184"),
        (elf([(MIB, CODE, 63)], MIB), "64 bytes in the file but 63 in memory"),
        (elf([], MIB), "has 0 program headers"),
        (elf([], MIB, note=pvh_note(0)), "no segment to load"),
        (elf([(MIB, CODE, 64)] * 129, MIB), "has 129 program headers"),
        (elf([(MIB, CODE, 64)], MIB, machine=183), "for ARM64, not for x86"),
        (elf([(MIB, CODE, 64)], MIB, machine=99), "for machine 99"),
        (elf([(MIB, CODE, 64)], MIB, kind=1), "a relocatable object file"),
        (b"\x7fELF\x02\x02" + bytes(60), "byte order 2"),
        (b"MZ", "not an ELF file"),
    ],
)
def test_elf_image_when_the_file_is_wrong_says_how(data: bytes, sentence: str) -> None:
    with pytest.raises(ImageError, match=sentence):
        ElfImage(data)


@pytest.mark.parametrize(
    ("data", "interpreter", "why"),
    [
        (elf([(MIB, CODE, 64)], MIB, extra=[3]), True, "it names an interpreter"),
        (elf([(MIB, CODE, 64)], MIB, note=ABI_TAG), True, "start code of a C library"),
        (elf([(MIB, CODE, 64)], MIB, note=ABI_TAG, extra=[3]), False, "start code of a C library"),
    ],
)
def test_refuse_program_when_an_operating_system_is_to_start_it_says_why(
    data: bytes, interpreter: bool, why: str
) -> None:
    image = ElfImage(data)

    with pytest.raises(NotAKernelError, match=f"a program for a running system \\(.*{why}.*, here"):
        image.refuse_program(interpreter=interpreter, remedy="here")


def test_refuse_program_when_it_is_this_interpreter_says_so() -> None:
    family = ARM64 if native.NAME == "arm64" else X86
    image = ElfImage(Path(sys.executable).read_bytes(), family)

    with pytest.raises(NotAKernelError, match="start code of a C library"):
        image.refuse_program(interpreter=False, remedy="here")


@pytest.mark.parametrize(
    ("data", "interpreter"),
    [
        (elf([(MIB, CODE, 64)], MIB, extra=[3]), False),
        (elf([(MIB, CODE, 64)], MIB, note=pvh_note(MIB)), True),
    ],
)
def test_refuse_program_when_nothing_says_so_passes(data: bytes, interpreter: bool) -> None:
    ElfImage(data).refuse_program(interpreter=interpreter, remedy="here")


def test_elf_image_when_an_offset_overflows_64_bits_refuses() -> None:
    data = bytearray(elf([(MIB, CODE, 64)], MIB))
    struct.pack_into("<Q", data, 64 + 8, (1 << 64) - 8)

    with pytest.raises(ImageError, match="cut short or broken"):
        ElfImage(data)


def test_physical_entry_when_the_entry_is_virtual_translates_it() -> None:
    image = ElfImage(
        elf([(16 * MIB, CODE, 64)], 0xFFFFFFFF80000000 + 16 * MIB + 8, virtual=0xFFFFFFFF80000000)
    )

    assert image.physical_entry() == 16 * MIB + 8


@pytest.mark.parametrize("entry", [0, 16 * MIB - 1, 16 * MIB + 64])
def test_check_entry_when_outside_every_segment_refuses(entry: int) -> None:
    with pytest.raises(ImageError, match="lies in no segment"):
        ElfImage(elf([(16 * MIB, CODE, 64)], entry)).check_entry(entry)


def test_note_when_lengths_lie_finds_nothing_and_ends() -> None:
    for note in (b"\xff" * 64, struct.pack("<3I", 4, 0xFFFFFFFF, 18) + b"Xen\0", bytes(4096)):
        assert ElfImage(elf([(MIB, CODE, 64)], MIB, note=note)).note(b"Xen", 18) is None


def test_note_when_it_follows_others_is_found() -> None:
    other = struct.pack("<3I8s5s3x", 7, 5, 1, b"vendor\0\0", b"12345")

    found = ElfImage(elf([(MIB, CODE, 64)], MIB, note=other + pvh_note(0x1234))).note(b"Xen", 18)

    assert found == struct.pack("<I", 0x1234)
