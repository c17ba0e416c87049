"""Several initrds as one: the kernel unpacks concatenated archives.

Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.memory.guest import GuestMemory


def lay_out(initrds: Sequence[bytes | memoryview]) -> tuple[list[int], int]:
    """The offset of each, when they lie one after another at multiples of 4 bytes, and the size of all."""
    offsets = []
    size = 0
    for initrd in initrds:
        size = -(-size // 4) * 4
        offsets.append(size)
        size += len(initrd)
    return offsets, size


def write_at(
    memory: GuestMemory, base: int, offsets: Sequence[int], initrds: Sequence[bytes | memoryview]
) -> None:
    """Write each of *initrds* at its offset from *base*."""
    for offset, initrd in zip(offsets, initrds, strict=True):
        if initrd:
            memory.write(base + offset, initrd)
