"""Port and memory-mapped I/O from a guest to a Python device, and to where nobody answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.board.space import MMIO, PORT
from tests.support.firmware_guest import guest, passes

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

#: Free on this machine: four ports, and 64 KiB between the device pages and the ROM.
PORTS = 0xE0
REGISTERS = 0xD010_0000
LEVELS = (0, 3)


@pytest.mark.parametrize("level", LEVELS)
def test_port_access_when_of_any_width_reaches_the_device(tmp_path: Path, level: int) -> None:
    machine = guest(tmp_path, f"ports{level}.bin", PORTS)
    device = machine.add(PORT, PORTS, 4)

    passes(machine, f"ok ports{level}")

    assert device.writes[:6] == [
        (0, 4, 0x44332211),
        *((i, 1, 0xF0 + i) for i in range(4)),
        (2, 2, 0xBBAA),
    ]


@pytest.mark.parametrize("level", LEVELS)
def test_mmio_access_when_of_any_width_and_alignment_reaches_the_device(tmp_path: Path, level: int) -> None:
    machine = guest(tmp_path, f"mmio{level}.bin", REGISTERS)
    device = machine.add(MMIO, REGISTERS, 0x10000)

    passes(machine, f"ok mmio{level}")

    assert {size for _, size, _ in device.writes} >= {1, 2, 4, 8}


@pytest.mark.parametrize("level", LEVELS)
def test_string_io_when_counts_are_large_transfers_every_element(tmp_path: Path, level: int) -> None:
    machine = guest(tmp_path, f"string_io{level}.bin", PORTS, 300)
    device = machine.add(PORT, PORTS, 4)

    passes(machine, f"ok string_io{level}")

    # 300 forwards and 2 backwards in each width.
    assert [sum(size == width for _, size, _ in device.writes) for width in (1, 2, 4)] == [302, 302, 302]


def test_string_io_when_on_every_port_harms_nothing(tmp_path: Path) -> None:
    # Two bytes each: an emulated host takes 0.3 ms an exit. The large counts are below.
    passes(guest(tmp_path, "every_port.bin", 0, 0, 0, 2, timeout=100), "ok every_port")


@pytest.mark.parametrize("port", [0x60, 0x71, 0x80, 0x3F9, 0x3FF, 0xFFFF])
def test_string_io_when_counts_are_large_harms_no_device(tmp_path: Path, port: int) -> None:
    passes(guest(tmp_path, "every_port.bin", port, port, 1, 4096), "ok every_port")


def test_unclaimed_port_when_accessed_reads_ones_and_drops_writes(tmp_path: Path) -> None:
    machine = guest(tmp_path, "unclaimed_ports.bin")

    passes(machine, "ok unclaimed_ports")

    assert machine.machine.ports.unclaimed_reads > 5000
    assert machine.machine.ports.unclaimed_writes > 5000


def test_unmapped_address_when_accessed_reads_ones_and_drops_writes(tmp_path: Path) -> None:
    behind_ram = 16 << 20

    passes(guest(tmp_path, "unmapped.bin", behind_ram), "ok unmapped")


def test_rom_when_written_stays_as_it_is(tmp_path: Path) -> None:
    passes(guest(tmp_path, "rom_write.bin"), "ok rom_write")
