"""The table is read back by the field offsets of the MP Specification 1.4, chapter 4."""

from __future__ import annotations

import struct

import pytest

from pyvmm.boot.errors import DoesNotFitError
from pyvmm.boot.x86 import lowmem
from pyvmm.boot.x86.mptable import build_mp_table, write_mp_table
from tests.support.images import MIB, ram

_SIZES = {0: 20, 1: 8, 2: 8, 3: 8, 4: 8}


def _entries(table: bytes) -> list[bytes]:
    found = []
    at = 44
    while at < len(table):
        size = _SIZES[table[at]]
        found.append(table[at : at + size])
        at += size
    return found


@pytest.mark.parametrize("cpus", [1, 2, 16, 254])
def test_build_mp_table_when_read_back_is_consistent(cpus: int) -> None:
    table = build_mp_table(cpus)

    length, revision = struct.unpack_from("<HB", table, 4)
    (count,) = struct.unpack_from("<H", table, 34)
    (lapic,) = struct.unpack_from("<I", table, 36)
    entries = _entries(table)
    assert table[:4] == b"PCMP"
    assert sum(table) & 0xFF == 0
    assert (length, revision, lapic) == (len(table), 4, 0xFEE00000)
    assert count == len(entries)
    processors = [entry for entry in entries if entry[0] == 0]
    assert [entry[1] for entry in processors] == list(range(cpus))
    assert [entry[3] for entry in processors] == [3] + [1] * (cpus - 1)


def test_build_mp_table_when_read_back_wires_interrupts_as_kvm_routes_them() -> None:
    entries = _entries(build_mp_table(2))

    (io_apic,) = [entry for entry in entries if entry[0] == 2]
    assert struct.unpack("<4BI", io_apic) == (2, 0, 0x11, 1, 0xFEC00000)
    pins = {entry[5]: entry[7] for entry in entries if entry[0] == 3}
    assert pins == {0: 2} | {irq: irq for irq in (1, *range(3, 24))}
    assert all(entry[6] == io_apic[1] for entry in entries if entry[0] == 3)
    local = [(entry[1], entry[6], entry[7]) for entry in entries if entry[0] == 4]
    assert local == [(3, 0, 0), (1, 0xFF, 1)]  # ExtINT on LINT0 of CPU 0, NMI on LINT1 of all


@pytest.mark.parametrize("cpus", [1, 30, 38, 39, 254])
def test_write_mp_table_when_searched_as_kernels_do_is_found(cpus: int) -> None:
    with ram(16 * MIB) as memory:
        base, size = write_mp_table(memory, cpus)
        area = memory.read(lowmem.MP_TABLE, 1024)
        table = memory.read(base, size)

    pointer = next(area[at : at + 16] for at in range(0, 1024, 16) if area[at : at + 4] == b"_MP_")
    assert sum(pointer) & 0xFF == 0
    assert struct.unpack_from("<IBB", pointer, 4) == (base, 1, 4)
    assert pointer[11] == 0  # a table follows, no default configuration
    assert table == build_mp_table(cpus)
    assert any(
        low <= base and base + size <= high for low, high in ((lowmem.MP_TABLE, 0xA0000), (0xF0000, 0x100000))
    )


@pytest.mark.parametrize("cpus", [0, 255])
def test_build_mp_table_when_cpus_are_out_of_range_refuses(cpus: int) -> None:
    with pytest.raises(DoesNotFitError, match=f"1 to 254 CPUs, not {cpus}"):
        build_mp_table(cpus)
