"""Where everything below 1 MiB lies, and the descriptor and page tables of the first CPU.

Descriptor formats: Intel SDM vol. 3, 3.4.5 (segments) and 7.2.3 (TSS in 64-bit mode); page
tables: 4.5. Selectors 0x10 and 0x18 are Linux's __BOOT_CS and __BOOT_DS. Multiboot leaves them open; QEMU's
loader has 0x8 and 0x10, and kernels (xv6) load a descriptor table of their own without loading CS again.
"""

from __future__ import annotations

import struct

from pyvmm.boot.entry import LONG, PROTECTED, BootEntry
from pyvmm.boot.ranges import Range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory.guest import GuestMemory

#: Base and end of each structure; nothing else names an address below 1 MiB.
BIOS_DATA, BIOS_DATA_END = 0x400, 0x500
GDT, GDT_END = 0x500, 0x530
PVH_START_INFO = 0x1000
PVH_MODLIST = 0x1040
PVH_MEMMAP, PVH_END = 0x2000, 0x3000
MULTIBOOT_INFO, MULTIBOOT_END = 0x3000, 0x7000
ZERO_PAGE, ZERO_PAGE_END = 0x7000, 0x8000
STACK, STACK_TOP = 0x8000, 0x9000
PAGE_TABLES, PAGE_TABLES_END = 0x9000, 0xF000
CMDLINE, CMDLINE_END = 0x20000, 0x30000
#: The extended BIOS data area (EBDA): the last KiB below 640 KiB. Its first byte is its size.
EBDA, EBDA_END = 0x9FC00, 0xA0000
#: In the EBDA: the first place that kernels search for the MP floating pointer, at multiples of 16.
MP_TABLE, MP_TABLE_END = 0x9FC10, 0xA0000
#: Base memory ends here.
RAM_END = EBDA
#: The area searched for the RSDP (ACPI 6.5, 5.2.5.1) starts here.
ACPI, ACPI_END = 0xE0000, 0xFC000
RSDP = ACPI
#: An MP configuration table of many CPUs.
MP_TABLE_LARGE, MP_TABLE_LARGE_END = 0xFC000, 0xFFFE0
#: A second floating pointer, in the BIOS's segment: some kernels search nowhere else.
MP_POINTER = 0xFFFE0
#: f000:fff0, the entry of a PC's BIOS: kernels jump there to restart.
RESET_ENTRY = 0xFFFF0
HIGH_MEMORY = 0x100000

CODE_SELECTOR = 0x10
DATA_SELECTOR = 0x18
TSS_SELECTOR = 0x20
MULTIBOOT_CODE_SELECTOR = 0x08
GDT_LIMIT = GDT_END - GDT - 1
TSS_LIMIT = 0x67

_CODE32 = 0x00CF9B000000FFFF
_CODE64 = 0x00AF9B000000FFFF
_DATA = 0x00CF93000000FFFF
_TSS = 0x00008B0000000000 | TSS_LIMIT

_PRESENT_WRITABLE = 0x3
_LARGE = 0x80
#: What the page tables map, one to one.
IDENTITY_SIZE = 4 << 30


GDT_RANGE = Range("descriptor table", GDT, GDT_END)
STACK_RANGE = Range("boot stack", STACK, STACK_TOP)
PAGE_TABLES_RANGE = Range("page tables", PAGE_TABLES, PAGE_TABLES_END)
#: Ranges that a kernel's segments may not overlap.
KERNEL_RANGES = (
    GDT_RANGE,
    Range("PVH start info", PVH_START_INFO, PVH_END),
    Range("multiboot information", MULTIBOOT_INFO, MULTIBOOT_END),
    Range("Linux boot parameters", ZERO_PAGE, ZERO_PAGE_END),
    STACK_RANGE,
    PAGE_TABLES_RANGE,
    Range("command line", CMDLINE, CMDLINE_END),
    Range("MP table and extended BIOS data area", EBDA, EBDA_END),
    Range("video and adapter area", EBDA_END, ACPI),
    Range("ACPI and MP tables", ACPI, HIGH_MEMORY),
)
#: Those that a multiboot kernel's segments may not overlap: it is given no stack and no page tables.
MULTIBOOT_RANGES = tuple(
    taken
    for taken in KERNEL_RANGES
    if not (PVH_START_INFO <= taken.base < MULTIBOOT_INFO or ZERO_PAGE <= taken.base < PAGE_TABLES_END)
)
#: Ranges that a firmware's segments may not overlap.
FIRMWARE_RANGES = (GDT_RANGE, STACK_RANGE, PAGE_TABLES_RANGE)


def write_gdt(memory: GuestMemory, mode: str, code_selector: int = CODE_SELECTOR) -> int:
    """Write the descriptor table for *mode* (PROTECTED or LONG) and return its guest address.

    The code segment has *code_selector*, 0x8 or 0x10, data segment and TSS the next two.
    """
    code = _CODE64 if mode == LONG else _CODE32
    table = bytearray(GDT_END - GDT)
    struct.pack_into("<3Q", table, code_selector, code, _DATA, _TSS)
    memory.write(GDT, table)
    return GDT


def write_page_tables(memory: GuestMemory) -> int:
    """Map the first 4 GiB one to one with 2 MiB pages; return the value of CR3."""
    from array import array  # imported here: only for guests that start in 64-bit mode

    page = 0x1000
    pml4 = struct.pack("<Q", (PAGE_TABLES + page) | _PRESENT_WRITABLE)
    directories = [(PAGE_TABLES + (2 + i) * page) | _PRESENT_WRITABLE for i in range(4)]
    entries = array("Q", range(_PRESENT_WRITABLE | _LARGE, IDENTITY_SIZE, 2 << 20))
    memory.write(PAGE_TABLES, pml4 + bytes(page - len(pml4)))
    memory.write(PAGE_TABLES + page, struct.pack("<4Q", *directories) + bytes(page - 32))
    memory.write(PAGE_TABLES + 2 * page, entries.tobytes())
    return PAGE_TABLES


def protected_entry(
    memory: GuestMemory, ip: int, registers: dict[str, int], code_selector: int = CODE_SELECTOR
) -> BootEntry:
    """A BootEntry in flat 32-bit protected mode at guest address *ip*, its descriptor table written.

    *code_selector*: 0x8 or 0x10, as in ``write_gdt``.
    """
    gdt = write_gdt(memory, PROTECTED, code_selector)
    return BootEntry(PROTECTED, ip, registers, gdt, code_selector=code_selector)


def long_entry(memory: GuestMemory, ip: int, registers: dict[str, int]) -> BootEntry:
    """A BootEntry in 64-bit mode at guest address *ip*, its descriptor and page tables written."""
    gdt = write_gdt(memory, LONG)
    return BootEntry(LONG, ip, registers, gdt, write_page_tables(memory), CODE_SELECTOR)
