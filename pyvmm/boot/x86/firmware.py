"""Firmware: a ROM that ends at 4 GiB and is entered at the reset vector, or an ELF file.

A ROM is what QEMU's ``-bios`` takes. The place of a PC's firmware: the last bytes below
4 GiB, and its last 128 KiB again below 1 MiB (Intel SDM vol. 3, 10.1.4 for the reset vector).
"""

from __future__ import annotations

from pyvmm.boot.entry import REAL, BootEntry
from pyvmm.boot.errors import ImageError
from pyvmm.boot.x86 import lowmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory.guest import GuestMemory

ROM_END = 1 << 32
ROM_MAX = 16 << 20
#: The copy below 1 MiB: its size at most, and its end.
LOW_COPY = 128 << 10
LOW_COPY_END = 0x100000
#: The copy of a ROM that a chipset would have shadowed: it is RAM, which the firmware writes to.
SHADOW = 256 << 10
_PAGE = 0x1000
_ELF_MAGIC = b"\x7fELF"
#: Of a boot sector and of a Linux kernel's header.
_BOOT_FLAG, _HEADER = 0x1FE, 0x202
#: The first byte of a boot sector: a jump over its parameters, or cli.
_JUMPS = b"\xeb\xe9\xfa"

#: What SeaBIOS says when it goes on without PCI. It writes to its copy below 1 MiB.
_SEABIOS = b"SeaBIOS"
_WITHOUT_PCI = b"Detected non-PCI system"
#: Firmware that needs other hardware: bytes in its image, its name, what it needs.
_WANTS = (
    (_SEABIOS, "SeaBIOS", "PCI and fw_cfg"),
    (b"_FVH", "UEFI firmware", "PCI, flash memory and fw_cfg"),
    (b"LARCHIVE", "coreboot", "the chipset it was built for"),
    (b"etc/table-loader", "QEMU firmware (qboot)", "fw_cfg with a kernel and ACPI tables in it"),
)


class X86RomImage:
    """A ROM and where it goes.

    *data*: the bytes, in whole pages, for a read-only region at *base*, ending at 4 GiB. *low*: their last
    128 KiB or less, to be written at *low_base*, ending at 1 MiB; of a *shadowed* ROM the last 256 KiB, which
    are RAM. *entry*: the reset vector. A *shadowed* ROM also looks for PCI and goes on without.
    """

    __slots__ = ("base", "data", "entry", "low", "low_base", "shadowed")

    def __init__(self, data: bytes, shadowed: bool = False) -> None:
        self.data = data
        self.shadowed = shadowed
        self.base = ROM_END - len(data)
        self.low = data[-(SHADOW if shadowed else LOW_COPY) :]
        self.low_base = LOW_COPY_END - len(self.low)
        self.entry = BootEntry(REAL)

    @property
    def places(self) -> list[tuple[int, int, int, str]]:
        """``(gpa, offset, size, name)`` of each region: *size* bytes of *data* from *offset*."""
        low, size = len(self.low), len(self.data)
        places = [(self.base, 0, size, "firmware ROM")]
        return places if self.shadowed else [(self.low_base, size - low, low, "firmware ROM, low"), *places]


def load_firmware_rom(data: bytes | memoryview) -> X86RomImage:
    """Check a ROM and pad it at the front to whole pages.

    Raises ImageError for one that is empty, larger than 16 MiB, empty at the reset vector,
    or that needs devices this machine does not have.
    """
    rom = bytes(data)
    if not rom:
        raise ImageError("the firmware is empty; give a ROM image or an ELF file")
    if len(rom) > ROM_MAX:
        raise ImageError(f"the firmware has {len(rom)} bytes; a ROM may have at most {ROM_MAX} (16 MiB)")
    what = _no_firmware(rom)
    if what:
        raise ImageError(f"this is {what}, not firmware; a kernel is given with --kernel")
    shadowed = _SEABIOS in rom and _WITHOUT_PCI in rom
    for mark, name, needs in _WANTS:
        if mark in rom and not shadowed:
            raise ImageError(
                f"this firmware is {name} and needs {needs}, which this machine does not have; "
                "boot a kernel directly (--kernel) or use firmware written for this machine"
            )
    rom = bytes(-len(rom) % _PAGE) + rom
    if rom[-16:] in (bytes(16), b"\xff" * 16):
        raise ImageError(
            "the firmware has no instruction at the reset vector, its last 16 bytes; "
            "give a ROM image that ends with its entry, or an ELF file"
        )
    return X86RomImage(rom, shadowed)


def _no_firmware(rom: bytes) -> str:
    """What a file is instead that is often taken for firmware; empty for none of them."""
    if rom[_BOOT_FLAG : _BOOT_FLAG + 2] == b"\x55\xaa":
        if rom[_HEADER : _HEADER + 4] == b"HdrS":
            return "a Linux kernel (bzImage)"
        if rom[0] in _JUMPS:
            return "a boot sector or disk image, which a BIOS starts"
    if rom[:2] == b"MZ":
        from pyvmm.boot.pe import signature  # a ROM starts without it
        from pyvmm.boot.uki import describe

        if signature(memoryview(rom)) is not None:
            return describe(memoryview(rom))
    return ""


def is_elf(data: bytes | memoryview) -> bool:
    """Whether firmware is an ELF file, for ``load_firmware_elf``, and not a ROM."""
    return bytes(data[:4]) == _ELF_MAGIC


def load_firmware_elf(memory: GuestMemory, data: bytes | memoryview) -> BootEntry:
    """Load an ELF firmware: ELF32 starts in flat protected mode, ELF64 in 64-bit mode.

    Entered at ``e_entry`` with a stack of 4 KiB; in 64-bit mode the first 4 GiB are mapped
    one to one. It may lie anywhere in RAM but on the descriptor table, stack and page
    tables. Raises ImageError, NotAKernelError, DoesNotFitError.
    """
    from pyvmm.boot.elf import ElfImage  # a ROM starts without it

    image = ElfImage(data)
    image.refuse_program(interpreter=False, remedy="not firmware")
    entry = image.check_entry(image.physical_entry())
    image.load(memory, lowmem.FIRMWARE_RANGES)
    registers = {"rsp": lowmem.STACK_TOP}
    if image.bits == 64:
        return lowmem.long_entry(memory, entry, registers)
    return lowmem.protected_entry(memory, entry, registers)
