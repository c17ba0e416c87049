"""The tables of fixed layout: RSDP, RSDT, XSDT, FADT and MADT.

Source: ACPI specification 6.5: header 5.2.6, generic address 5.2.3.2, RSDP 5.2.5.3, RSDT 5.2.7,
XSDT 5.2.8, FADT 5.2.9, MADT 5.2.12.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.boot.acpi.power import PowerPorts

OEM_ID = b"PYVMM "
OEM_TABLE_ID = b"PYVMMTBL"
OEM_REVISION = 1
CREATOR_ID = b"PYVM"
CREATOR_REVISION = 1

_HEADER = struct.Struct("<4sIBB6s8sI4sI")
HEADER_SIZE = _HEADER.size
_CHECKSUM = 9
RSDP_SIZE = 36

FADT_SIZE = 276
FADT_REVISION = 6
FADT_MINOR_REVISION = 3
#: FADT preferred power management profile: an enterprise server (no battery, no lid).
PM_ENTERPRISE_SERVER = 4
#: IAPC_BOOT_ARCH; bits 0 and 1 are clear: no LPC devices to probe for, no 8042.
VGA_NOT_PRESENT = 1 << 2
CMOS_RTC_NOT_PRESENT = 1 << 5
#: FADT flags (table 5.10).
WBINVD = 1 << 0
PWR_BUTTON = 1 << 4  # a control method device, not a fixed register
SLP_BUTTON = 1 << 5  # not a fixed register
FIX_RTC = 1 << 6  # wake status of the clock not in fixed registers
RESET_REG_SUP = 1 << 10
HEADLESS = 1 << 12
HW_REDUCED_ACPI = 1 << 20
FADT_FLAGS = WBINVD | PWR_BUTTON | SLP_BUTTON | FIX_RTC | RESET_REG_SUP | HEADLESS | HW_REDUCED_ACPI

LOCAL_APIC_ADDRESS = 0xFEE0_0000
IO_APIC_ADDRESS = 0xFEC0_0000
#: KVM's I/O APIC starts with this identifier.
IO_APIC_ID = 0
_LOCAL_APIC = 0
_IO_APIC = 1
_INTERRUPT_SOURCE_OVERRIDE = 2
_LOCAL_APIC_NMI = 4
_ENABLED = 1
_ALL_PROCESSORS = 0xFF
_EDGE_HIGH = 1 | 1 << 2
_SYSTEM_IO = 1
_BYTE_ACCESS = 1


def checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum of *data* and itself zero modulo 256."""
    return -sum(data) & 0xFF


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """*body* behind a system description table header (5.2.6). *revision*, 0 to 255: that of its layout."""
    size = HEADER_SIZE + len(body)
    data = bytearray(
        _HEADER.pack(
            signature, size, revision, 0, OEM_ID, OEM_TABLE_ID, OEM_REVISION, CREATOR_ID, CREATOR_REVISION
        )
        + body
    )
    data[_CHECKSUM] = checksum(data)
    return bytes(data)


def rsdp(rsdt_gpa: int, xsdt_gpa: int) -> bytes:
    """The root pointer, revision 2: its first 20 bytes have a checksum of their own.

    *rsdt_gpa*, below 4 GiB, and *xsdt_gpa*: the guest-physical addresses of the RSDT and the XSDT.
    """
    data = bytearray(
        struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, OEM_ID, 2, rsdt_gpa, RSDP_SIZE, xsdt_gpa, 0)
    )
    data[8] = checksum(data[:20])
    data[32] = checksum(data)
    return bytes(data)


def rsdt(tables: Sequence[int]) -> bytes:
    """The root table of 32-bit addresses, for kernels that know no other."""
    return table(b"RSDT", 1, struct.pack(f"<{len(tables)}I", *tables))


def xsdt(tables: Sequence[int]) -> bytes:
    """The root table of 64-bit addresses."""
    return table(b"XSDT", 1, struct.pack(f"<{len(tables)}Q", *tables))


def fadt(dsdt_gpa: int, power: PowerPorts) -> bytes:
    """The fixed description of a hardware-reduced machine: no PM blocks, no SCI, no FACS.

    *dsdt_gpa*: the guest-physical address of the DSDT, below 4 GiB.
    """
    data = bytearray(FADT_SIZE - HEADER_SIZE)

    def put(layout: str, offset: int, *values: int | bytes) -> None:
        struct.pack_into("<" + layout, data, offset - HEADER_SIZE, *values)

    put("I", 40, dsdt_gpa)
    put("B", 45, PM_ENTERPRISE_SERVER)
    put("H", 109, VGA_NOT_PRESENT | CMOS_RTC_NOT_PRESENT)
    put("I", 112, FADT_FLAGS)
    put("12s", 116, _byte_port(power.reset))
    put("B", 128, power.reset_value)
    put("B", 131, FADT_MINOR_REVISION)
    put("Q", 140, dsdt_gpa)
    put("12s", 244, _byte_port(power.sleep_control))
    put("12s", 256, _byte_port(power.sleep_status))
    put("8s", 268, b"PYVMM")
    return table(b"FACP", FADT_REVISION, bytes(data))


def _byte_port(port: int) -> bytes:
    """A generic address: one 8-bit register in the I/O space."""
    return struct.pack("<BBBBQ", _SYSTEM_IO, 8, 0, _BYTE_ACCESS, port)


def madt(cpus: int) -> bytes:
    """Local APICs 0 to *cpus* - 1, the I/O APIC, and what KVM wires differently from an identity map.

    The 8259s are not announced (PCAT_COMPAT is clear).
    """
    entries = [struct.pack("<BBBBI", _LOCAL_APIC, 8, cpu, cpu, _ENABLED) for cpu in range(cpus)]
    entries += [
        struct.pack("<BBBBII", _IO_APIC, 12, IO_APIC_ID, 0, IO_APIC_ADDRESS, 0),
        # The PIT: KVM's default routing has ISA interrupt 0 on pin 2.
        struct.pack("<BBBBIH", _INTERRUPT_SOURCE_OVERRIDE, 10, 0, 0, 2, 0),
        struct.pack("<BBBHB", _LOCAL_APIC_NMI, 6, _ALL_PROCESSORS, _EDGE_HIGH, 1),
    ]
    return table(b"APIC", 5, struct.pack("<II", LOCAL_APIC_ADDRESS, 0) + b"".join(entries))
