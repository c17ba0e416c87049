"""The BIOS data area and what kernels find through it, by the offsets of IBM's technical reference."""

from __future__ import annotations

import pytest

from pyvmm.boot.x86.biosdata import write_bios_data
from pyvmm.boot.x86.mptable import build_mp_table, write_mp_table
from pyvmm.memory.guest import GuestMemory
from tests.support.images import MIB, ram


@pytest.mark.parametrize("ports", [[0x3F8], [0x3F8, 0x2F8], [1, 2, 3, 4, 5]])
def test_bios_data_when_read_tells_base_memory_ebda_and_serial_ports(ports: list[int]) -> None:
    with ram(16 * MIB) as memory:
        memory.write(0x400, b"\xff" * 0x100)
        write_bios_data(memory, ports)

        told = [memory.read_u16(0x400 + 2 * at) for at in range(4)]
        assert told == (ports + [0] * 4)[:4]
        assert memory.read_u16(0x410) >> 9 & 7 == min(len(ports), 4)
        assert int.from_bytes(memory.read(0x413, 2), "little") == 639
        assert memory.read_u8(memory.read_u16(0x40E) << 4) == 1  # KiB


def mp_pointers(memory: GuestMemory, base: int, size: int) -> list[int]:
    """Where the MP specification's structure is found in a range."""
    area = memory.read(base, size)
    found = [at for at in range(0, size, 16) if area[at : at + 4] == b"_MP_"]
    return [base + at for at in found if sum(area[at : at + 16]) & 0xFF == 0]


@pytest.mark.parametrize("cpus", [1, 2, 38, 39, 254])
def test_mp_table_is_found_in_the_ebda_and_in_the_bios_segment(cpus: int) -> None:
    with ram(16 * MIB) as memory:
        write_bios_data(memory, [0x3F8])
        write_mp_table(memory, cpus)

        ebda = memory.read_u16(0x40E) << 4
        places = mp_pointers(memory, ebda, 1024), mp_pointers(memory, 0xF0000, 0x10000)
        tables = {memory.read_u32(at + 4) for found in places for at in found}
        assert [len(found) for found in places] == [1, 1]
        assert len(tables) == 1
        assert memory.read(tables.pop(), len(build_mp_table(cpus))) == build_mp_table(cpus)
        assert memory.read_u8(ebda) == 1  # the table leaves the EBDA's size alone
