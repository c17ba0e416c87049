"""Firmware: a flat image at an address of one's choice, or an ELF file.

A flat image below RAM is a ROM, as QEMU's ``-bios`` on its ``virt`` board; one at an address in RAM is
written there. Both are entered at their first byte.
"""

from __future__ import annotations

from pyvmm.arch.arm64 import layout
from pyvmm.boot.errors import DoesNotFitError, ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import Config
    from pyvmm.memory.guest import GuestMemory

_PAGE = 0x1_0000  # the largest page size of a host's kernel
_ELF_MAGIC = b"\x7fELF"


class Arm64RomImage:
    """A ROM: *data* in whole pages, and its regions, *places*: ``(gpa, offset, size, name)``.

    At address 0 its region is as large as the flash memory of QEMU's board, with zeroes behind the data:
    U-Boot reads its environment there byte by byte, and each byte would be an exit.

    :param base: its guest-physical address
    """

    __slots__ = ("data", "places")

    def __init__(self, data: bytes, base: int) -> None:
        self.data = data
        size = layout.FIRMWARE_MAX if base == layout.FIRMWARE else len(data)
        self.places = [(base, 0, size, "firmware ROM")]


def read_rom(data: bytes | memoryview, config: Config) -> Arm64RomImage | None:
    """The ROM in *data*; None for an ELF file or RAM. Raises ImageError, DoesNotFitError."""
    base = layout.FIRMWARE if config.firmware_base is None else config.firmware_base
    ram = layout.RAM if config.ram_base is None else config.ram_base
    if bytes(data[:4]) == _ELF_MAGIC or base >= ram:
        return None
    if not any(data[:4]):
        raise ImageError("the firmware begins with zeroes; it is entered at its first byte: give code there")
    if base % _PAGE:
        raise ImageError(
            f"the firmware's place {base:#x} is no multiple of 64 KiB, which a ROM needs; move it"
        )
    padded = bytes(data) + bytes(-len(data) % _PAGE)
    if base == layout.FIRMWARE and len(padded) > layout.FIRMWARE_MAX:
        raise DoesNotFitError(
            f"the firmware has {len(data)} bytes; at {base:#x} is room for {layout.FIRMWARE_MAX} (128 MiB)"
        )
    return Arm64RomImage(padded, base)


def load_flat(memory: GuestMemory, data: bytes | memoryview, base: int) -> tuple[int, int]:
    """Write a flat image to the guest-physical address *base*; ``(entry, end)``. Raises DoesNotFitError."""
    if not memory.contains(base, len(data)):
        raise DoesNotFitError(
            f"the firmware goes to {base:#x}-{base + len(data) - 1:#x}, not all RAM; give the guest "
            "more memory or move it (firmware_base)"
        )
    memory.write(base, data)
    return base, base + len(data)


def load_elf(memory: GuestMemory, data: bytes | memoryview) -> tuple[int, list[tuple[int, int]]]:
    """Write an ELF file's segments to RAM; its entry and what it occupies.

    What is linked to addresses in RAM, from 1 GiB on, is taken for a kernel or firmware. Raises ImageError,
    DoesNotFitError, and NotAKernelError for a program that is linked to other addresses.
    """
    from pyvmm.boot.elf import ARM64, ElfImage

    image = ElfImage(data, ARM64)
    entry = image.check_entry(image.physical_entry(), limit=64)
    try:
        image.load(memory, ())
    except DoesNotFitError:
        image.refuse_program(interpreter=True, remedy="not a kernel or firmware")
        raise
    return entry, [(segment.paddr, segment.end) for segment in image.segments]
