"""Firmware as a PC has it: a ROM that ends at 4 GiB."""

from __future__ import annotations

from pyvmm.boot.x86.firmware import X86RomImage, is_elf, load_firmware_rom

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import Config


def read_rom(data: bytes | memoryview, config: Config) -> X86RomImage | None:
    """The ROM in *data*; None for an ELF file, which goes to RAM. Raises ImageError."""
    return None if is_elf(data) else load_firmware_rom(data)
