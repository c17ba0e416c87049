"""Kernels of some bytes: multiboot ones that print their command line, an ELF that names an interpreter."""

from __future__ import annotations

import struct

from tests.support.images import elf, multiboot_header, pvh_note

BASE = 0x10_0000
AOUT_KLUDGE, VIDEO_MODE = 0x1_0000, 4
#: mov esi, [ebx + 16]; each byte at esi to COM1, up to the zero; then 0 to the debug exit.
_PRINT_CMDLINE = bytes.fromhex("8b7310 66baf803 ac 84c0 7403 ee ebf8 66ba0105 ee f4")

#: Looks for the MP table where the MP specification lets a kernel look: in the first KiB of the EBDA, whose
#: segment is at 0x40e. Then compares the ID of the table's first I/O APIC with that in its register. It
#: writes to the debug exit 0 where they are the same, 1 where not, 30 without a table, 31 without an entry.
_COMPARE_IOAPIC = bytes.fromhex(
    "0fb7350e040000 c1e604 b940000000"  # movzx esi, word [0x40e]; shl esi, 4; mov ecx, 64
    "813e5f4d505f 7409 83c610 e2f3 b01e eb37"  # cmp dword [esi], "_MP_"; in steps of 16
    "8b7604 0fb74e22 83c62c"  # mov esi, [esi + 4]; movzx ecx, word [esi + 34]; add esi, 44
    "8a06 3c02 7410 84c0 7503 83c60c 83c608 e2ee b01f eb17"  # to entry type 2; type 0 has 20 bytes
    "8b7e04 8a5e01 c70700000000 8b4710 c1e818"  # select register 0 of the I/O APIC, read it
    "38d8 0f95c0 66ba0105 ee f4"
)


def comparing_ioapic_ids() -> bytes:
    """A multiboot kernel that ends with 32 where the MP table has the ID that the I/O APIC has, else more."""
    return _multiboot(_COMPARE_IOAPIC)


def printing(flags: int = 0, behind: bytes = b"") -> bytes:
    """A multiboot kernel that writes its command line to COM1 and ends with code 32.

    *flags* are added to its header's, *behind* to its end.
    """
    return _multiboot(_PRINT_CMDLINE + behind, flags)


def _multiboot(body: bytes, flags: int = 0) -> bytes:
    flags |= AOUT_KLUDGE
    video = struct.pack("<4I", 0, 1024, 768, 32) if flags & VIDEO_MODE else b""
    entry = BASE + 32 + len(video)
    addresses = (BASE, BASE, entry + len(body), 0, entry)
    return multiboot_header(flags, *addresses) + video + body


def with_interpreter(code: int) -> bytes:
    """An ELF kernel with a PVH note that names an interpreter, too, and ends with 32 + *code*, 0 to 31."""
    base = 0x20_0000
    program = bytes.fromhex(f"66ba0105 b0{code:02x} ee f4").ljust(64, b"\0")
    return elf([(base, program, 64)], base, note=pvh_note(base), extra=[3])
