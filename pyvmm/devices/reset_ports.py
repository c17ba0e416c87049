"""Ports that reset a PC: the reset control register (0xcf9) and system control port A (0x92).

Sources: Intel 82371SB (PIIX3) data sheet, 2.5.15 (reset control register) and 2.5.8 (port 92h); Linux's
``arch/x86/kernel/reboot.c`` uses the first, ``arch/x86/boot/a20.c`` the A20 bit of the second.
"""

from __future__ import annotations

from pyvmm.board.device import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes of the ports of PCI configuration mechanism #1, with the reset control register among them.
CONFIG_SIZE = 8
#: The reset control register's offset in them.
RESET_CONTROL = 1
SYS_RST = 1 << 1
RST_CPU = 1 << 2
FULL_RST = 1 << 3

#: Bytes of system control port A.
PORT_A_SIZE = 1
ALT_RESET = 1 << 0
ALT_A20 = 1 << 1


class ResetControl(Device):
    """The ports 0xcf8 to 0xcff, of which a byte access to 0xcf9 is the reset control register.

    The register is no part of a wider access: a double word at 0xcf8 is a PCI configuration address, whatever
    its second byte.

    :param on_reset: the guest set RST_CPU; called by the vCPU that did
    :param pci: what every other access reaches; a plain Device for none
    """

    name = "reset control register"

    def __init__(self, on_reset: Callable[[], object], pci: Device) -> None:
        self._on_reset = on_reset
        self._pci = pci
        self._kind = 0

    def read(self, offset: int, size: int) -> int:
        """The kind of reset that was written; RST_CPU reads as zero."""
        if (offset, size) == (RESET_CONTROL, 1):
            return self._kind
        return self._pci.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Keep the kind of reset, and reset when RST_CPU is set."""
        if (offset, size) != (RESET_CONTROL, 1):
            self._pci.write(offset, size, value)
            return
        self._kind = value & (SYS_RST | FULL_RST)
        if value & RST_CPU:
            self._on_reset()

    def reset(self) -> None:
        """The register is 0."""
        self._kind = 0

    def save(self) -> dict[str, object]:
        """The register."""
        return {"version": 1, "kind": self._kind}

    def load(self, state: dict[str, object]) -> None:
        """Restore what ``save`` returned. Raises KeyError or TypeError for anything else."""
        kind = state["kind"]
        if not isinstance(kind, int):
            raise TypeError("the saved state of the reset control register has a field of the wrong type")
        self._kind = kind & (SYS_RST | FULL_RST)


class SystemControlA(Device):
    """The port at 0x92: a rising bit 0 resets; bit 1 is A20, a bit to be read back (the line is always on).

    :param on_reset: called by the vCPU that set bit 0
    """

    name = "system control port A"

    def __init__(self, on_reset: Callable[[], object]) -> None:
        self._on_reset = on_reset
        self._value = ALT_A20

    def read(self, offset: int, size: int) -> int:
        """What was written; A20 on after a reset."""
        return self._value

    def write(self, offset: int, size: int, value: int) -> None:
        """Keep both bits, and reset when bit 0 rises."""
        rising = value & ~self._value & ALT_RESET
        self._value = value & (ALT_RESET | ALT_A20)
        if rising:
            self._on_reset()

    def reset(self) -> None:
        """A20 on."""
        self._value = ALT_A20

    def save(self) -> dict[str, object]:
        """The register."""
        return {"version": 1, "value": self._value}

    def load(self, state: dict[str, object]) -> None:
        """Restore what ``save`` returned. Raises KeyError or TypeError for anything else."""
        value = state["value"]
        if not isinstance(value, int):
            raise TypeError("the saved state of system control port A has a field of the wrong type")
        self._value = value & (ALT_RESET | ALT_A20)
