from __future__ import annotations

import struct
from itertools import pairwise

import pytest

from pyvmm.boot.entry import LONG, PROTECTED
from pyvmm.boot.x86 import lowmem
from tests.support.images import MIB, ram


def test_kernel_ranges_when_sorted_do_not_overlap() -> None:
    ranges = sorted(lowmem.KERNEL_RANGES, key=lambda r: r.base)

    assert all(left.end <= right.base for left, right in pairwise(ranges))
    assert all(r.base < r.end for r in ranges)


@pytest.mark.parametrize(
    ("mode", "code_flags"),
    [(PROTECTED, 0xCF), (LONG, 0xAF)],  # G, D/B, L and the limit's top: SDM vol. 3, figure 3-8
)
def test_write_gdt_when_read_by_selector_has_flat_segments(mode: str, code_flags: int) -> None:
    with ram(16 * MIB) as memory:
        base = lowmem.write_gdt(memory, mode)

        code = memory.read(base + lowmem.CODE_SELECTOR, 8)
        data = memory.read(base + lowmem.DATA_SELECTOR, 8)
        tss = memory.read(base + lowmem.TSS_SELECTOR, 16)
        assert memory.read(base, 8) == bytes(8)

    assert code == bytes([0xFF, 0xFF, 0, 0, 0, 0x9B, code_flags, 0])
    assert data == bytes([0xFF, 0xFF, 0, 0, 0, 0x93, 0xCF, 0])
    assert tss == bytes([0x67, 0, 0, 0, 0, 0x8B, 0, 0]) + bytes(8)
    assert lowmem.TSS_SELECTOR + 15 == lowmem.GDT_LIMIT


@pytest.mark.parametrize("address", [0, 0x1FFFFF, 0x200000, 0x3FFFFFFF, 0x40000000, 0xFEE00000, 0xFFFFFFFF])
def test_write_page_tables_when_walked_maps_an_address_to_itself(address: int) -> None:
    with ram(16 * MIB) as memory:
        table = lowmem.write_page_tables(memory)
        for shift in (39, 30):
            (entry,) = struct.unpack("<Q", memory.read(table + 8 * (address >> shift & 511), 8))
            assert entry & 0x83 == 0x03  # present, writable, not a page
            table = entry & ~0xFFF
        (entry,) = struct.unpack("<Q", memory.read(table + 8 * (address >> 21 & 511), 8))

    assert entry & 0x83 == 0x83
    assert (entry & ~0x1FFFFF) + (address & 0x1FFFFF) == address


def test_write_page_tables_when_memory_was_dirty_maps_nothing_above_4_gib() -> None:
    with ram(16 * MIB) as memory:
        memory.write(lowmem.PAGE_TABLES, b"\xff" * (lowmem.PAGE_TABLES_END - lowmem.PAGE_TABLES))

        lowmem.write_page_tables(memory)

        assert memory.read(lowmem.PAGE_TABLES + 8, 0xFF8) == bytes(0xFF8)
        assert memory.read(lowmem.PAGE_TABLES + 0x1000 + 32, 0xFE0) == bytes(0xFE0)
