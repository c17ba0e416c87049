"""Kernels of some bytes: multiboot ones that print their command line, an ELF that names an interpreter."""

from __future__ import annotations

import struct

from tests.support.images import elf, multiboot_header, pvh_note

BASE = 0x10_0000
AOUT_KLUDGE, VIDEO_MODE = 0x1_0000, 4
#: mov esi, [ebx + 16]; each byte at esi to COM1, up to the zero; then 0 to the debug exit.
_PRINT_CMDLINE = bytes.fromhex("8b7310 66baf803 ac 84c0 7403 ee ebf8 66ba0105 ee f4")


def printing(flags: int = 0, behind: bytes = b"") -> bytes:
    """A multiboot kernel that writes its command line to COM1 and ends with code 32.

    *flags* are added to its header's, *behind* to its end.
    """
    flags |= AOUT_KLUDGE
    video = struct.pack("<4I", 0, 1024, 768, 32) if flags & VIDEO_MODE else b""
    entry = BASE + 32 + len(video)
    body = _PRINT_CMDLINE + behind
    addresses = (BASE, BASE, entry + len(body), 0, entry)
    return multiboot_header(flags, *addresses) + video + body


def with_interpreter(code: int) -> bytes:
    """An ELF kernel with a PVH note that names an interpreter, too, and ends with 32 + *code*, 0 to 31."""
    base = 0x20_0000
    program = bytes.fromhex(f"66ba0105 b0{code:02x} ee f4").ljust(64, b"\0")
    return elf([(base, program, 64)], base, note=pvh_note(base), extra=[3])
