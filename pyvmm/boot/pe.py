"""PE images: their sections, and what such a file is.

Sources: Microsoft's "PE Format" (MS-DOS stub, COFF file header, optional header, section table); UEFI 2.10,
2.1.1, for the subsystems and machines of EFI images.
"""

from __future__ import annotations

import struct

from pyvmm.boot.errors import ImageError

MAGIC = b"MZ"
_SIGNATURE = b"PE\0\0"
#: The offset of the signature, in the MS-DOS header.
_E_LFANEW = 0x3C
#: Machine, NumberOfSections, TimeDateStamp, PointerToSymbolTable, NumberOfSymbols, SizeOfOptionalHeader,
#: Characteristics
_COFF = struct.Struct("<HHIIIHH")
#: Subsystem, in the optional header; of PE32 and PE32+ alike.
_SUBSYSTEM = 68
#: Name, VirtualSize, VirtualAddress, SizeOfRawData, PointerToRawData
_SECTION = struct.Struct("<8sIIII16x")
#: Sections at most: the Windows loader's own limit.
_MAX_SECTIONS = 96

_MACHINES = {
    0x014C: "x86",
    0x01C0: "ARM",
    0x01C2: "ARM",
    0x01C4: "ARM",
    0x0EBC: "EFI byte code",
    0x5032: "RISC-V (32-bit)",
    0x5064: "RISC-V",
    0x6264: "LoongArch",
    0x8664: "x86-64",
    0xAA64: "ARM64",
}
_SUBSYSTEMS = {
    1: "a Windows driver",
    2: "a Windows program",
    3: "a Windows program",
    10: "an EFI application",
    11: "an EFI boot service driver",
    12: "an EFI runtime driver",
    13: "an EFI ROM image",
}


class PeImage:
    """The headers of a PE image, checked. Raises ImageError.

    *machine*: the processor's name. *subsystem*: what the file is, such as ``an EFI application``.
    *sections*: name, offset in the file and bytes of each, in their order.
    """

    __slots__ = ("_data", "machine", "sections", "subsystem")

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = view = memoryview(data)
        start = signature(view)
        if start is None:
            raise ImageError("this is not a PE image; the signature PE is not at its place")
        machine, count, _, _, _, optional, _ = _COFF.unpack_from(view, start + len(_SIGNATURE))
        self.machine = _MACHINES.get(machine, f"machine {machine:#x}")
        header = start + len(_SIGNATURE) + _COFF.size
        table = header + optional
        if count > _MAX_SECTIONS:
            raise ImageError(f"this PE image has {count} sections, more than {_MAX_SECTIONS}; it is broken")
        if table + count * _SECTION.size > len(view):
            raise _cut("section table", table + count * _SECTION.size, len(view))
        kind = struct.unpack_from("<H", view, header + _SUBSYSTEM)[0] if optional >= _SUBSYSTEM + 2 else 0
        self.subsystem = _SUBSYSTEMS.get(kind, "a PE image")
        self.sections: list[tuple[str, int, int]] = []
        for index in range(count):
            name, size, _, stored, at = _SECTION.unpack_from(view, table + index * _SECTION.size)
            text = name.rstrip(b"\0").decode("ascii", "replace")
            # What is stored is padded to the file's alignment; what is not stored is zero.
            self.sections.append((text, at, min(size, stored) if size else stored))

    def contents(self, section: tuple[str, int, int]) -> memoryview:
        """The bytes of one of ``sections``. Raises ImageError where the file ends before them."""
        name, at, size = section
        if size and at + size > len(self._data):
            raise _cut(f"section {name}", at + size, len(self._data))
        return self._data[at : at + size]


def signature(data: memoryview) -> int | None:
    """The offset of the signature PE; None where there is none, or no COFF file header behind it."""
    if bytes(data[:2]) != MAGIC or len(data) < _E_LFANEW + 4:
        return None
    (at,) = struct.unpack_from("<I", data, _E_LFANEW)
    if bytes(data[at : at + 4]) != _SIGNATURE or at + 4 + _COFF.size > len(data):
        return None
    return int(at)


def _cut(what: str, needed: int, size: int) -> ImageError:
    return ImageError(
        f"the {what} of this PE image would end at byte {needed}, but the file has only {size}; "
        "it is cut short or broken"
    )
