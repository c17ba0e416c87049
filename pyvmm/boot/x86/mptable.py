"""The MP configuration table: CPUs and interrupts for kernels without ACPI.

Intel MultiProcessor Specification 1.4, chapter 4 (tables 4-1 to 4-13). Interrupts are wired
as KVM routes them by default: ISA interrupt 0 to I/O APIC pin 2, the others to their number.
"""

from __future__ import annotations

import struct

from pyvmm.boot.errors import DoesNotFitError
from pyvmm.boot.x86 import lowmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory.guest import GuestMemory

LOCAL_APIC = 0xFEE00000
IO_APIC = 0xFEC00000
APIC_VERSION = 0x14
IO_APIC_VERSION = 0x11
IO_APIC_PINS = 24
#: As in the I/O APIC's register after a reset, and in the MADT: kernels compare them. It may be that of a
#: processor, too: xAPICs and I/O APICs have no bus in common.
IO_APIC_ID = 0
#: APIC ids are 8 bits: 255 is broadcast.
MAX_CPUS = 254

MP_PROCESSOR, MP_BUS, MP_IOAPIC, MP_INTSRC, MP_LINTSRC = range(5)
CPU_ENABLED, CPU_BOOTPROCESSOR = 1, 2
IOAPIC_USABLE = 1
MP_INT, MP_NMI, MP_EXTINT = 0, 1, 3
_ISA_BUS = 0
_ALL_APICS = 0xFF
_SPEC_REV = 4
_POINTER_SIZE = 16


def write_mp_table(
    memory: GuestMemory, cpus: int, signature: int = 0x600, features: int = 0x201
) -> tuple[int, int]:
    """Write the floating pointer and the table for *cpus* CPUs, 1 to 254, APIC ids from 0 up.

    *signature* and *features*: CPUID leaf 1, EAX and EDX. Returns ``(base, size)`` of the
    table. The pointer is in the extended BIOS data area, where kernels look first, and the table behind it;
    where it is too large, below 1 MiB. The same pointer is in the BIOS's segment. Raises DoesNotFitError for
    another number of CPUs.
    """
    table = build_mp_table(cpus, signature, features)
    base = lowmem.MP_TABLE + _POINTER_SIZE
    if base + len(table) > lowmem.MP_TABLE_END:
        base = lowmem.MP_TABLE_LARGE
    # struct mpf_intel { char signature[4]; u32 physptr; u8 length, specification, checksum, feature[5]; };
    pointer = struct.pack("<4sI8B", b"_MP_", base, 1, _SPEC_REV, 0, 0, 0, 0, 0, 0)
    pointer = _with_checksum(pointer, 10)
    memory.write(lowmem.MP_TABLE, pointer)
    memory.write(lowmem.MP_POINTER, pointer)
    memory.write(base, table)
    return base, len(table)


def build_mp_table(cpus: int, signature: int = 0x600, features: int = 0x201) -> bytes:
    """The configuration table's bytes; *cpus*, *signature* and *features* are as for ``write_mp_table``.

    Raises DoesNotFitError as that does.
    """
    if not 1 <= cpus <= MAX_CPUS:
        raise DoesNotFitError(f"an MP table describes 1 to {MAX_CPUS} CPUs, not {cpus}")
    entries = []
    for cpu in range(cpus):
        flags = CPU_ENABLED | (CPU_BOOTPROCESSOR if cpu == 0 else 0)
        entries.append(struct.pack("<4B2I8x", MP_PROCESSOR, cpu, APIC_VERSION, flags, signature, features))
    entries.append(struct.pack("<2B6s", MP_BUS, _ISA_BUS, b"ISA   "))
    entries.append(struct.pack("<4BI", MP_IOAPIC, IO_APIC_ID, IO_APIC_VERSION, IOAPIC_USABLE, IO_APIC))
    # Polarity and trigger 0: as the bus has it, which is edge and active high for ISA. IRQ 2
    # is the cascade of the PICs. Above 15 there is no ISA interrupt, but this is how a kernel
    # without ACPI learns of the other pins.
    for irq in range(IO_APIC_PINS):
        if irq != 2:
            pin = 2 if irq == 0 else irq
            entries.append(struct.pack("<2BH4B", MP_INTSRC, MP_INT, 0, _ISA_BUS, irq, IO_APIC_ID, pin))
    entries.append(struct.pack("<2BH4B", MP_LINTSRC, MP_EXTINT, 0, _ISA_BUS, 0, 0, 0))
    entries.append(struct.pack("<2BH4B", MP_LINTSRC, MP_NMI, 0, _ISA_BUS, 0, _ALL_APICS, 1))
    body = b"".join(entries)
    # struct mpc_table { char signature[4]; u16 length; u8 spec, checksum; char oem[8], productid[12];
    #     u32 oemptr; u16 oemsize, oemcount; u32 lapic, reserved; };
    header = struct.pack(
        "<4sHBB8s12sIHHII",
        b"PCMP",
        44 + len(body),
        _SPEC_REV,
        0,
        b"PYVMM   ",
        b"PYVMM       ",
        0,
        0,
        len(entries),
        LOCAL_APIC,
        0,
    )
    return _with_checksum(header + body, 7)


def _with_checksum(table: bytes, at: int) -> bytes:
    """*table* with its byte *at* set so that all bytes add up to 0 modulo 256."""
    return table[:at] + bytes([-sum(table) & 0xFF]) + table[at + 1 :]
