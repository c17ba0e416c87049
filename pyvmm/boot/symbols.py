"""The symbol that a guest address lies in, for messages: out of the symbol table of an ELF image.

System V gABI, chapter 4 (symbol table). pyelftools finds table and segments. The entries are walked here: it
takes some 20 us for each, and a kernel has 200,000.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Larger symbol tables are not searched.
MAX_TABLE = 64 << 20
#: A name is cut to this many characters.
MAX_NAME = 128
#: st_name, st_info, st_other, st_shndx, st_value, st_size; in 32 bits in another order.
_ENTRY64 = struct.Struct("<IBBHQQ")
_ENTRY32 = struct.Struct("<IIIBBH")
PF_X = 1
STT_NOTYPE, STT_FUNC = 0, 2
SHN_UNDEF, SHN_LORESERVE = 0, 0xFF00


def symbol_at(path: str, address: int) -> str:
    """``start_kernel+0x1c`` for *address*, virtual or physical; empty where the file names nothing there.

    For a file that is damaged, missing or no ELF image it is empty, too: no exception is raised. Nor is one
    where the library cannot be loaded: a process in the sandbox has no files.
    """
    try:
        from elftools.elf.elffile import ELFFile

        with open(path, "rb") as file:
            elf = ELFFile(file)
            table: Any = elf.get_section_by_name(".symtab")
            place = _linked(elf, address)
            if table is None or table["sh_size"] > MAX_TABLE or place is None:
                return ""
            virtual, start = place
            found = _nearest(table.data(), elf.elfclass, virtual, start)
            if found is None:
                return ""
            name = _printable(table.stringtable.get_string(found[0]))
            offset = virtual - found[1]
            return f"{name}+{offset:#x}" if name and offset else name
    except Exception:
        return ""


def _linked(elf: Any, address: int) -> tuple[int, int] | None:
    """The address a kernel's code is linked at, and the start of its segment; None outside its code.

    Before it enables paging, a kernel runs at the physical address.
    """
    code = [segment for segment in elf.iter_segments("PT_LOAD") if segment["p_flags"] & PF_X]
    for key in ("p_vaddr", "p_paddr"):
        for segment in code:
            offset = address - segment[key]
            if 0 <= offset < segment["p_memsz"]:
                return segment["p_vaddr"] + offset, segment["p_vaddr"]
    return None


def _nearest(table: bytes, bits: int, address: int, start: int) -> tuple[int, int] | None:
    """Name offset and value of the last code symbol from *start* to *address*; None if it ends before."""
    best: tuple[int, int] | None = None
    best_value, best_size = start - 1, 0
    for entry in (_ENTRY64 if bits == 64 else _ENTRY32).iter_unpack(table):
        if bits == 64:
            name, info, _, section, value, size = entry
        else:
            name, value, size, info, _, section = entry
        if not best_value < value <= address or not name:
            continue
        if info & 15 in (STT_NOTYPE, STT_FUNC) and SHN_UNDEF < section < SHN_LORESERVE:
            best, best_value, best_size = (name, value), value, size
    # A label of assembly code has no size: it reaches to the next symbol.
    if best is None or (best_size and address >= best_value + best_size):
        return None
    return best


def _printable(name: str) -> str:
    return "".join(character if " " < character < "\x7f" else "?" for character in name[:MAX_NAME])
