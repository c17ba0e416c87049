"""The machine the table tests describe: everything the x86-64 platform announces, and more."""

from __future__ import annotations

from pyvmm.boot.acpi import AcpiDevice, AcpiTables, PowerPorts

BASE, END = 0xE0000, 0x100000

POWER = PowerPorts(
    sleep_control=0x600,
    sleep_status=0x601,
    s5_type=5,
    reset=0x602,
    reset_value=1,
    events=0x604,
    power_button=1,
    events_gsi=5,
)
COM1 = AcpiDevice("COM1", "PNP0501", 1, ports=[(0x3F8, 8)], interrupts=[(4, True, False)])


def virtio(number: int) -> AcpiDevice:
    return AcpiDevice(
        f"V{number:03d}",
        "LNRO0005",
        number,
        mmio=[(0xD0000000 + 0x1000 * number, 0x1000)],
        interrupts=[(16 + number % 8, True, True)],
    )


def tables(cpus: int = 1, devices: list[AcpiDevice] | None = None) -> AcpiTables:
    return AcpiTables(cpus, [COM1] if devices is None else devices, POWER, BASE, END)


def piece(acpi: AcpiTables, signature: bytes) -> bytes:
    (found,) = (data for _, data in acpi.pieces if data[: len(signature)] == signature)
    return found


def gpa_of(acpi: AcpiTables, signature: bytes) -> int:
    (found,) = (gpa for gpa, data in acpi.pieces if data[: len(signature)] == signature)
    return found
