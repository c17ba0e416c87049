"""Fixed tables field by field, at the offsets of ACPI 6.5, section 5.2."""

from __future__ import annotations

import struct

import pytest

from tests.support.acpi_machine import BASE, gpa_of, piece, tables

ALL = [b"RSDT", b"XSDT", b"FACP", b"APIC", b"DSDT"]


@pytest.mark.parametrize("signature", ALL)
def test_table_when_summed_is_zero_and_tells_its_length(signature: bytes) -> None:
    data = piece(tables(), signature)

    assert sum(data) % 256 == 0
    assert struct.unpack_from("<I", data, 4) == (len(data),)


def test_rsdp_when_read_is_revision_2_with_both_checksums_and_both_roots() -> None:
    acpi = tables()
    data = piece(acpi, b"RSD PTR ")

    assert acpi.rsdp == BASE
    assert len(data) == 36
    assert sum(data[:20]) % 256 == 0
    assert sum(data) % 256 == 0
    assert data[15] == 2
    rsdt, length, xsdt = struct.unpack_from("<IIQ", data, 16)
    assert (rsdt, length, xsdt) == (gpa_of(acpi, b"RSDT"), 36, gpa_of(acpi, b"XSDT"))


@pytest.mark.parametrize(("signature", "layout"), [(b"RSDT", "<2I"), (b"XSDT", "<2Q")])
def test_root_table_when_read_lists_fadt_and_madt(signature: bytes, layout: str) -> None:
    acpi = tables()
    data = piece(acpi, signature)

    assert len(data) == 36 + struct.calcsize(layout)
    assert struct.unpack_from(layout, data, 36) == (gpa_of(acpi, b"FACP"), gpa_of(acpi, b"APIC"))


def test_fadt_when_read_is_hardware_reduced_and_resets_by_register() -> None:
    data = piece(tables(), b"FACP")

    assert (len(data), data[8], data[131]) == (276, 6, 3)
    (flags,) = struct.unpack_from("<I", data, 112)
    assert flags & 1 << 20, "HW_REDUCED_ACPI"
    assert flags & 1 << 10, "RESET_REG_SUP"
    assert flags & 1 << 4, "power button is a control method device"
    assert data[45] == 4


def test_fadt_when_read_denies_vga_clock_and_keyboard_controller() -> None:
    (boot,) = struct.unpack_from("<H", piece(tables(), b"FACP"), 109)

    assert boot == 1 << 2 | 1 << 5


@pytest.mark.parametrize(("offset", "port"), [(116, 0x602), (244, 0x600), (256, 0x601)])
def test_fadt_when_read_has_byte_registers_in_port_space(offset: int, port: int) -> None:
    data = piece(tables(), b"FACP")

    assert struct.unpack_from("<BBBBQ", data, offset) == (1, 8, 0, 1, port)


def test_fadt_when_read_gives_reset_value_and_both_dsdt_addresses() -> None:
    acpi = tables()
    data = piece(acpi, b"FACP")

    assert data[128] == 1
    assert struct.unpack_from("<I", data, 40) == (gpa_of(acpi, b"DSDT"),)
    assert struct.unpack_from("<Q", data, 140) == (gpa_of(acpi, b"DSDT"),)


def test_fadt_when_read_has_no_power_management_blocks() -> None:
    data = piece(tables(), b"FACP")

    assert not any(data[46:109]), "SCI to century"
    assert not any(data[148:244]), "extended block addresses"
    assert not any(data[36:40] + data[132:140]), "FACS"


def madt_entries(data: bytes) -> list[bytes]:
    entries, at = [], 44
    while at < len(data):
        entries.append(data[at : at + data[at + 1]])
        at += data[at + 1]
    assert at == len(data)
    return entries


def test_madt_when_read_begins_with_the_local_apic_address_and_no_8259() -> None:
    assert struct.unpack_from("<II", piece(tables(), b"APIC"), 36) == (0xFEE00000, 0)


@pytest.mark.parametrize("cpus", [1, 2, 254])
def test_madt_when_read_lists_each_cpu_once_enabled(cpus: int) -> None:
    entries = madt_entries(piece(tables(cpus), b"APIC"))

    local = [struct.unpack("<BBBBI", entry) for entry in entries if entry[0] == 0]
    assert local == [(0, 8, cpu, cpu, 1) for cpu in range(cpus)]


def test_madt_when_read_wires_the_rest_as_kvm_does() -> None:
    entries = madt_entries(piece(tables(), b"APIC"))[1:]

    io_apic, timer, nmi = entries
    assert struct.unpack("<BBBBII", io_apic) == (1, 12, 0, 0, 0xFEC00000, 0)
    assert struct.unpack("<BBBBIH", timer) == (2, 10, 0, 0, 2, 0)
    assert struct.unpack("<BBBHB", nmi) == (4, 6, 0xFF, 5, 1)
