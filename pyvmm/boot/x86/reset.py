"""Code at the BIOS reset entry of a machine without a BIOS: it resets the machine.

Kernels restart a PC by going there in real mode. Linux does so first of all on a hardware-reduced
machine: it tries EFI, which such machines usually have (``arch/x86/platform/efi/quirks.c``,
efi_reboot_required), and then the BIOS (``arch/x86/kernel/reboot.c``, ``realmode/rm/reboot.S``).
"""

from __future__ import annotations

from pyvmm.boot.x86 import lowmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory.guest import GuestMemory


def reset_code(port: int, value: int) -> bytes:
    """16-bit code that writes the byte *value* to *port* (0 to 0xffff), and halts."""
    write = b"\xfa\xba%b\xb0%b\xee"  # cli; mov dx, port; mov al, value; out dx, al
    halt = b"\xf4\xeb\xfd"  # again: hlt; jmp again
    return write % (port.to_bytes(2, "little"), value.to_bytes(1, "little")) + halt


def write_reset_code(memory: GuestMemory, port: int, value: int) -> None:
    """Write ``reset_code`` of the byte *value* and *port* (0 to 0xffff) to f000:fff0."""
    memory.write(lowmem.RESET_ENTRY, reset_code(port, value))
