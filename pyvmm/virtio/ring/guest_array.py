"""An array in guest memory that no single view covers: a ring across two regions."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.memory.guest import GuestMemory


class GuestArray:
    """Numbers of *width* bytes (2, 4 or 8) from guest-physical address *gpa* on, by index or slice.

    Raises GuestMemoryError for an element outside guest memory.
    """

    def __init__(self, memory: GuestMemory, gpa: int, width: int) -> None:
        self._gpa = gpa
        self._width = width
        self._read = {2: memory.read_u16, 4: memory.read_u32, 8: memory.read_u64}[width]
        self._write = {2: memory.write_u16, 4: memory.write_u32, 8: memory.write_u64}[width]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(index.start, index.stop)]
        return self._read(self._gpa + index * self._width)

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            for each, part in zip(range(index.start, index.stop), value, strict=True):
                self[each] = part
        else:
            self._write(self._gpa + index * self._width, value)


def unpack_descriptor(table: GuestArray, offset: int) -> tuple[int, int, int, int]:
    """(address, length, flags, next) of the descriptor at byte *offset* of *table*, of 8-byte elements."""
    address, rest = table[offset >> 3], table[(offset >> 3) + 1]
    return address, rest & 0xFFFF_FFFF, rest >> 32 & 0xFFFF, rest >> 48
