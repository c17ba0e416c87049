"""The BIOS data area, as far as a machine without a BIOS has what it describes.

Kernels read it to find the end of base memory, the extended BIOS data area (EBDA), where they search for MP
and ACPI tables (Intel MultiProcessor Specification 1.4, chapter 4; ACPI 6.5, 5.2.5.1), and serial ports.
Layout: IBM PS/2 and PC BIOS Interface Technical Reference, section 3.
"""

from __future__ import annotations

import struct

from pyvmm.boot.x86 import lowmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.memory.guest import GuestMemory

# Offsets in the area.
SERIAL_PORTS = 0x00  # four words
EBDA_SEGMENT = 0x0E
EQUIPMENT = 0x10
BASE_MEMORY = 0x13  # KiB

EQUIPMENT_FPU = 1 << 1
_SERIAL_COUNT_SHIFT = 9
_SERIAL_MAX = 4


def write_bios_data(memory: GuestMemory, serial_ports: Sequence[int]) -> None:
    """Write the area and the EBDA's first byte, its size in KiB.

    *serial_ports*: the first I/O port of each, COM1 first; the first four are told.
    """
    ports = list(serial_ports)[:_SERIAL_MAX]
    area = bytearray(lowmem.BIOS_DATA_END - lowmem.BIOS_DATA)
    struct.pack_into(f"<{len(ports)}H", area, SERIAL_PORTS, *ports)
    struct.pack_into("<H", area, EBDA_SEGMENT, lowmem.EBDA >> 4)
    struct.pack_into("<H", area, EQUIPMENT, EQUIPMENT_FPU | len(ports) << _SERIAL_COUNT_SHIFT)
    struct.pack_into("<H", area, BASE_MEMORY, lowmem.RAM_END >> 10)
    memory.write(lowmem.BIOS_DATA, area)
    memory.write_u8(lowmem.EBDA, (lowmem.EBDA_END - lowmem.EBDA) >> 10)
