"""struct boot_params, the "zero page" of the Linux boot protocol.

Documentation/arch/x86/zero-page.rst and boot.rst; arch/x86/include/uapi/asm/bootparam.h.
"""

from __future__ import annotations

import struct

from pyvmm.boot.errors import ImageError
from pyvmm.boot.x86 import lowmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.memory.guest import GuestMemory

SIZE = 0x1000
ACPI_RSDP_ADDR = 0x070
EXT_RAMDISK_IMAGE = 0x0C0
EXT_RAMDISK_SIZE = 0x0C4
E820_ENTRIES = 0x1E8
SETUP_HEADER = 0x1F1
VID_MODE = 0x1FA
BOOT_FLAG = 0x1FE
HEADER = 0x202
VERSION = 0x206
KERNEL_VERSION = 0x20E
TYPE_OF_LOADER = 0x210
LOADFLAGS = 0x211
CODE32_START = 0x214
RAMDISK_IMAGE = 0x218
RAMDISK_SIZE = 0x21C
CMD_LINE_PTR = 0x228
KERNEL_ALIGNMENT = 0x230
CMDLINE_SIZE = 0x238
SETUP_HEADER_END = 0x290
E820_TABLE = 0x2D0

BOOT_FLAG_MAGIC = 0xAA55
HEADER_MAGIC = 0x53726448  # "HdrS"
E820_MAX_ENTRIES = 128
#: The highest address in 32 bits, and with the extension fields of protocol 2.12.
LOW_MAX = (1 << 32) - 1
HIGH_MAX = (1 << 64) - 1
LOADED_HIGH = 1 << 0
#: Boot loader "undefined": pyvmm has no assigned number.
LOADER_UNDEFINED = 0xFF
VID_MODE_NORMAL = 0xFFFF
#: COMMAND_LINE_SIZE of x86 Linux, without the terminating zero: for kernels that come as an
#: ELF file and so cannot say it themselves.
LINUX_CMDLINE_SIZE = 2047
#: The protocol version that documents acpi_rsdp_addr.
VERSION_RSDP = 0x020E


def fresh_header() -> bytearray:
    """A zero page for a kernel without a setup header of its own (an ELF vmlinux)."""
    page = bytearray(SIZE)
    struct.pack_into("<H", page, BOOT_FLAG, BOOT_FLAG_MAGIC)
    struct.pack_into("<IH", page, HEADER, HEADER_MAGIC, VERSION_RSDP)
    page[LOADFLAGS] = LOADED_HIGH
    struct.pack_into("<I", page, KERNEL_ALIGNMENT, 0x1000000)
    struct.pack_into("<I", page, CMDLINE_SIZE, LINUX_CMDLINE_SIZE)
    return page


def write_zero_page(
    memory: GuestMemory,
    page: bytearray,
    cmdline: int,
    initrd: tuple[int, int],
    e820: Sequence[tuple[int, int, int]],
    rsdp: int,
) -> int:
    """Complete *page*, which has its setup header, and write it; return its guest address.

    *cmdline* and *rsdp*: guest addresses, *initrd*: ``(base, size)``, *e820*: at most 128
    entries, else ImageError. *rsdp* is passed from protocol 2.14 on. An initrd above 4 GiB is for
    kernels with XLF_CAN_BE_LOADED_ABOVE_4G.
    """
    if len(e820) > E820_MAX_ENTRIES:
        raise ImageError(
            f"the memory map has {len(e820)} ranges, but Linux boot parameters hold {E820_MAX_ENTRIES}; "
            "place fewer, larger ones"
        )
    (version,) = struct.unpack_from("<H", page, VERSION)
    page[TYPE_OF_LOADER] = LOADER_UNDEFINED
    struct.pack_into("<H", page, VID_MODE, VID_MODE_NORMAL)
    struct.pack_into("<II", page, RAMDISK_IMAGE, initrd[0] & LOW_MAX, initrd[1] & LOW_MAX)
    struct.pack_into("<II", page, EXT_RAMDISK_IMAGE, initrd[0] >> 32, initrd[1] >> 32)
    struct.pack_into("<I", page, CMD_LINE_PTR, cmdline)
    if version >= VERSION_RSDP:
        struct.pack_into("<Q", page, ACPI_RSDP_ADDR, rsdp)
    page[E820_ENTRIES] = len(e820)
    for index, entry in enumerate(e820):
        struct.pack_into("<QQI", page, E820_TABLE + 20 * index, *entry)
    memory.write(lowmem.ZERO_PAGE, page)
    return lowmem.ZERO_PAGE
