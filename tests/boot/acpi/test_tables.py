"""Placement of the tables, and the limits."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pyvmm.boot.acpi import AcpiDevice, AcpiTables, AcpiTablesError
from pyvmm.boot.acpi.aml import AmlError
from tests.support.acpi_machine import BASE, COM1, END, POWER, tables, virtio


class Memory:
    """Remembers what was written where."""

    def __init__(self) -> None:
        self.written: list[tuple[int, bytes]] = []

    def write(self, gpa: int, data: bytes) -> None:
        self.written.append((gpa, data))


def test_tables_when_254_cpus_and_40_devices_fit_below_1_mib() -> None:
    acpi = tables(254, [COM1, *(virtio(number) for number in range(40))])

    assert acpi.pieces[0][0] == BASE
    assert acpi.end <= END
    assert acpi.end == max(gpa + len(data) for gpa, data in acpi.pieces)


def test_tables_when_placed_are_aligned_and_apart() -> None:
    acpi = tables(7)

    spans = sorted((gpa, gpa + len(data)) for gpa, data in acpi.pieces)
    assert all(gpa % 16 == 0 for gpa, _ in spans)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))


def test_place_when_called_writes_every_table() -> None:
    acpi, memory = tables(), Memory()

    acpi.place(memory)  # type: ignore[arg-type]

    assert memory.written == acpi.pieces


@pytest.mark.parametrize("cpus", [0, 255])
def test_tables_when_cpus_out_of_range_are_refused(cpus: int) -> None:
    with pytest.raises(AcpiTablesError, match=f"{cpus} CPUs"):
        tables(cpus)


def test_tables_when_room_is_too_small_are_refused_with_both_sizes() -> None:
    needed = tables().end - BASE

    with pytest.raises(AcpiTablesError, match=rf"{needed} bytes.*room for {needed - 1} "):
        AcpiTables(1, [COM1], POWER, BASE, BASE + needed - 1)


def test_tables_when_room_is_exact_are_made() -> None:
    needed = tables().end - BASE

    assert AcpiTables(1, [COM1], POWER, BASE, BASE + needed).end == BASE + needed


@pytest.mark.parametrize("name", ["COM1", "PWRB", "GED", "GED_", "C001"])
def test_tables_when_two_devices_share_a_name_are_refused_naming_both(name: str) -> None:
    other = AcpiDevice(name, "LNRO0005", 7)

    with pytest.raises(AmlError, match=rf"called {name}: .* and LNRO0005 number 7"):
        tables(2, [COM1, other])
