"""The memory map a kernel is given, in the form of the BIOS call INT 15h, AX=E820h.

Types: ACPI specification 6.5, table 15.2.
"""

from __future__ import annotations

from itertools import pairwise

from pyvmm.boot.x86 import lowmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm.memory.guest import GuestMemory

E820_RAM = 1
E820_RESERVED = 2
E820_ACPI = 3
E820_NVS = 4


def build_e820(
    memory: GuestMemory, reserved: Iterable[tuple[int, int, int]] = ()
) -> list[tuple[int, int, int]]:
    """The map of *memory*: ``(base, size, type)``, ascending and disjoint.

    *reserved*: further ranges as ``(base, size, type)``; they take precedence over RAM, and later ones over
    earlier ones. The area from the MP table to 1 MiB
    is always reserved, read-only regions too.
    """
    layers = [(base, end, E820_RAM) for base, end in memory.ram_spans()]
    layers += [(r.gpa, r.gpa + r.size, E820_RESERVED) for r in memory.regions if r.readonly]
    layers.append((lowmem.RAM_END, lowmem.HIGH_MEMORY, E820_RESERVED))
    layers += [(base, base + size, kind) for base, size, kind in reserved]
    edges = sorted({edge for base, end, _ in layers for edge in (base, end)})
    merged: list[tuple[int, int, int]] = []
    for base, end in pairwise(edges):
        kind = next((kind for low, high, kind in reversed(layers) if low <= base < high), 0)
        if not kind:
            continue
        if merged and merged[-1][2] == kind and merged[-1][0] + merged[-1][1] == base:
            merged[-1] = (merged[-1][0], merged[-1][1] + end - base, kind)
        else:
            merged.append((base, end - base, kind))
    return merged
