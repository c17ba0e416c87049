"""ELF executables: the program headers, checked, and their segments into guest memory.

System V gABI, chapters 4 and 5. Not pyelftools, since importing it takes 80 ms of a
guest's start; the tests compare the two.
"""

from __future__ import annotations

import struct

from pyvmm.boot.errors import ImageError, NotAKernelError
from pyvmm.boot.ranges import check_range, clear

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.boot.ranges import Range
    from pyvmm.memory.guest import GuestMemory

MAGIC = b"\x7fELF"
ELFCLASS32, ELFCLASS64 = 1, 2
ELFDATA2LSB = 1
ET_EXEC, ET_DYN = 2, 3
EM_386, EM_X86_64, EM_AARCH64 = 3, 62, 183
PT_LOAD, PT_INTERP, PT_NOTE = 1, 3, 4
PN_XNUM = 0xFFFF
#: The note that the start code of GNU's C library leaves in every program (Linux Standard Base, 11.2).
NT_GNU_ABI_TAG = 1

#: Families of machines for ElfImage: name, values of e_machine, ELF classes.
X86 = ("x86", (EM_386, EM_X86_64), (ELFCLASS32, ELFCLASS64))
ARM64 = ("ARM64", (EM_AARCH64,), (ELFCLASS64,))

_TYPES = {0: "no type", 1: "a relocatable object file", 4: "a core dump"}
_MACHINES = {
    8: "MIPS",
    3: "x86",
    20: "PowerPC",
    21: "PowerPC64",
    40: "ARM",
    62: "x86-64",
    183: "ARM64",
    243: "RISC-V",
    258: "LoongArch",
}

#: Program headers at most; a linked kernel has a few.
_MAX_SEGMENTS = 128
_MAX_NOTES = 1 << 16
#: Of a 64-bit section header: name, offset, size.
_SECTION = struct.Struct("<I20xQQ24x")


class Segment:
    """One PT_LOAD header: *filesz* bytes at *offset* go to *paddr*, zeroes up to *memsz*.

    *paddr*: guest-physical; *vaddr*: the virtual address that it is linked for.
    """

    __slots__ = ("filesz", "memsz", "offset", "paddr", "vaddr")

    def __init__(self, offset: int, vaddr: int, paddr: int, filesz: int, memsz: int) -> None:
        self.offset = offset
        self.vaddr = vaddr
        self.paddr = paddr
        self.filesz = filesz
        self.memsz = memsz

    @property
    def end(self) -> int:
        """The guest-physical address behind the segment."""
        return self.paddr + self.memsz


class ElfImage:
    """A statically linked executable of *family*. Raises ImageError for anything else.

    *bits*: 32 or 64. *entry*: ``e_entry``. *segments*: what is to be loaded, ascending by
    physical address. *interpreter*: whether it names one (PT_INTERP), as programs do, and FreeBSD's kernel.
    """

    __slots__ = ("_notes", "bits", "data", "entry", "interpreter", "segments")

    def __init__(
        self, data: bytes | memoryview, family: tuple[str, tuple[int, ...], tuple[int, ...]] = X86
    ) -> None:
        self.data = memoryview(data)
        self.entry: int
        for_, machines, classes = family
        if bytes(self.data[:4]) != MAGIC:
            raise ImageError("this is not an ELF file; its first four bytes are not the ELF magic number")
        if len(self.data) < 52:
            raise _cut("ELF header", 52, len(self.data))
        elf_class, byte_order = self.data[4], self.data[5]
        if elf_class not in classes or byte_order != ELFDATA2LSB:
            raise ImageError(
                f"this ELF file has class {elf_class} and byte order {byte_order}; {for_} needs class "
                f"{' or '.join(map(str, classes))}, byte order 1 (little-endian)"
            )
        self.bits = 64 if elf_class == ELFCLASS64 else 32
        layout = "<HHIQQQIHHH" if self.bits == 64 else "<HHIIIIIHHH"
        size = 64 if self.bits == 64 else 52
        if len(self.data) < size:
            raise _cut("ELF header", size, len(self.data))
        header = struct.unpack_from(layout, self.data, 16)
        kind, machine, _, self.entry, phoff, _, _, _, phentsize, phnum = header
        if machine not in machines:
            name = _MACHINES.get(machine, f"machine {machine}")
            raise ImageError(f"this ELF file is for {name}, not for {for_}; give a kernel built for {for_}")
        if kind not in (ET_EXEC, ET_DYN):
            what = _TYPES.get(kind, f"of type {kind}")
            raise ImageError(f"this ELF file is {what}, not an executable; link it first")
        self.interpreter = False
        self._notes: list[tuple[int, int, int]] = []
        self.segments = self._read_headers(phoff, phentsize, phnum)

    def _read_headers(self, phoff: int, phentsize: int, phnum: int) -> list[Segment]:
        size = 56 if self.bits == 64 else 32
        if phnum == 0 or phnum > _MAX_SEGMENTS:
            raise ImageError(
                f"this ELF file has {phnum} program headers; a kernel has 1 to {_MAX_SEGMENTS}; it is broken"
            )
        if phentsize != size:
            raise ImageError(
                f"this ELF file's program headers have {phentsize} bytes each, not {size}; it is broken"
            )
        if phoff + phnum * size > len(self.data):
            raise _cut("ELF program headers", phoff + phnum * size, len(self.data))
        segments = []
        for index in range(phnum):
            at = phoff + index * size
            if self.bits == 64:
                kind, _, offset, vaddr, paddr, filesz, memsz, align = struct.unpack_from(
                    "<IIQQQQQQ", self.data, at
                )
            else:
                kind, offset, vaddr, paddr, filesz, memsz, _, align = struct.unpack_from("<8I", self.data, at)
            self.interpreter |= kind == PT_INTERP
            if kind not in (PT_LOAD, PT_NOTE) or (kind == PT_LOAD and not memsz):
                continue
            if offset + filesz > len(self.data):
                raise _cut(f"ELF segment {index}", offset + filesz, len(self.data))
            if kind == PT_NOTE:
                self._notes.append((offset, filesz, align))
                continue
            if filesz > memsz:
                raise ImageError(
                    f"ELF segment {index} has {filesz} bytes in the file but {memsz} in memory; it is broken"
                )
            segments.append(Segment(offset, vaddr, paddr, filesz, memsz))
        if not segments:
            raise ImageError("this ELF file has no segment to load; the file is broken or not a kernel")
        segments.sort(key=lambda segment: segment.paddr)
        return segments

    @property
    def end(self) -> int:
        """The guest-physical address behind the last segment."""
        return max(segment.end for segment in self.segments)

    def note(self, owner: bytes, kind: int) -> bytes | None:
        """The descriptor of the first note of *owner* with type *kind*; None without one."""
        for offset, size, align in self._notes:
            end = offset + min(size, _MAX_NOTES)
            align = 8 if align == 8 else 4
            while offset + 12 <= end:
                namesz, descsz, note_kind = struct.unpack_from("<III", self.data, offset)
                desc = offset + -(-(12 + namesz) // align) * align
                if desc + descsz > end:
                    break
                name = bytes(self.data[offset + 12 : offset + 12 + namesz]).rstrip(b"\0")
                if note_kind == kind and name == owner:
                    return bytes(self.data[desc : desc + descsz])
                offset = desc + -(-descsz // align) * align
        return None

    def refuse_program(self, *, interpreter: bool, remedy: str) -> None:
        """Raise NotAKernelError for a file that says that an operating system starts it.

        It says so by the note of the C library's start code and, with *interpreter*, by the name of an
        interpreter. *remedy*: the end of the sentence. For callers that know of nothing that makes it a
        kernel, such as a note or a header for boot loaders.
        """
        if self.note(b"GNU", NT_GNU_ABI_TAG) is not None:
            why = "it has the start code of a C library"
        elif interpreter and self.interpreter:
            why = "it names an interpreter"
        else:
            return
        raise NotAKernelError(f"this ELF file is a program for a running system ({why}), {remedy}")

    def physical_entry(self) -> int:
        """``e_entry`` as a physical address: kernels linked to high addresses may have a virtual one."""
        if not any(s.paddr <= self.entry < s.end for s in self.segments):
            for segment in self.segments:
                if segment.vaddr <= self.entry < segment.vaddr + segment.memsz:
                    return self.entry - segment.vaddr + segment.paddr
        return self.entry

    def check_entry(self, address: int, limit: int = 32) -> int:
        """*address*, if it lies in a segment and has at most *limit* bits. Raises ImageError otherwise."""
        if not any(s.paddr <= address < s.end for s in self.segments):
            raise ImageError(
                f"the entry point {address:#x} lies in no segment of this ELF file; link it with code there"
            )
        if address >> limit:
            raise ImageError(
                f"the entry point {address:#x} lies above 4 GiB, where nothing is mapped at first"
            )
        return address

    def load(self, memory: GuestMemory, reserved: Sequence[Range]) -> None:
        """Write the segments.

        Before anything is written, raises DoesNotFitError for a segment outside guest RAM or on a *reserved*
        range, ImageError for segments that overlap.
        """
        previous = None
        for segment in self.segments:
            check_range(memory, "an ELF segment", segment.paddr, segment.end, reserved)
            if previous is not None and segment.paddr < previous.end:
                raise ImageError(
                    f"the ELF segments at {previous.paddr:#x}-{previous.end - 1:#x} and "
                    f"{segment.paddr:#x}-{segment.end - 1:#x} overlap; the file is broken"
                )
            previous = segment
        for segment in self.segments:
            if segment.filesz:
                memory.write(segment.paddr, self.data[segment.offset : segment.offset + segment.filesz])
            clear(memory, segment.paddr + segment.filesz, segment.memsz - segment.filesz)


def section(data: memoryview, name: bytes) -> memoryview | None:
    """The contents of section *name* of a 64-bit file; None without one, or without valid section headers."""
    try:
        if bytes(data[:5]) != MAGIC + bytes([ELFCLASS64]):
            return None
        (at,) = struct.unpack_from("<Q", data, 40)
        size, count, names = struct.unpack_from("<HHH", data, 58)
        if size != _SECTION.size:
            return None
        headers = [_SECTION.unpack_from(data, at + index * size) for index in range(count)]
        _, strings, length = headers[names]
    except (struct.error, IndexError, OverflowError):
        return None
    table, wanted = data[strings : strings + length], name + b"\0"
    for place, offset, size in headers:
        if table[place : place + len(wanted)] == wanted:
            return data[offset : offset + size]
    return None


def _cut(what: str, needed: int, size: int) -> ImageError:
    return ImageError(
        f"the {what} would end at byte {needed}, but the file has only {size}; it is cut short or broken"
    )
