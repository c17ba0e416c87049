"""Power registers of a hardware-reduced ACPI machine: sleep control, sleep status, reset.

After the ACPI specification 6.5, sections 4.8.3.7 (sleep control and status registers) and 4.8.3.6 (reset
register), as Linux's ``drivers/acpi/acpica/hwesleep.c`` and ``drivers/acpi/reboot.c`` use them. S5 (off) is
the only sleep state: any other SLP_TYP sets WAK_STS at once, so that a guest which waits for it continues.
"""

from __future__ import annotations

from _thread import allocate_lock

from pyvmm.board.device import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Register offsets, a byte each; the fourth byte of the window is reserved.
SLEEP_CONTROL = 0
SLEEP_STATUS = 1
RESET = 2
#: Bytes of the window.
SIZE = 4

SLP_TYP_SHIFT = 2
SLP_TYP_MASK = 0x1C
SLP_EN = 0x20
WAK_STS = 0x80

#: SLP_TYP of S5, which powers the machine off; the first element of \_S5.
S5_TYPE = 5
#: What resets the machine when written to RESET.
RESET_VALUE = 1


class AcpiPm(Device):
    """The three registers.

    :param on_poweroff: the guest entered S5; called by the vCPU that wrote SLP_EN
    :param on_reset: the guest wrote RESET_VALUE to the reset register
    """

    name = "ACPI power registers"

    def __init__(self, on_poweroff: Callable[[], object], on_reset: Callable[[], object]) -> None:
        self._on_poweroff = on_poweroff
        self._on_reset = on_reset
        self._lock = allocate_lock()
        self._control = 0
        self._status = 0

    def read(self, offset: int, size: int) -> int:
        """Sleep control without SLP_EN (it reads as zero), sleep status; zero for the rest."""
        registers = (self._control, self._status, 0, 0)
        return int.from_bytes(bytes(registers[offset : offset + size]), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Write registers; a wider access writes neighbours, lowest first."""
        for i in range(size):
            self._write_register(offset + i, value >> 8 * i & 0xFF)

    def _write_register(self, offset: int, value: int) -> None:
        if offset == SLEEP_CONTROL:
            poweroff = value & SLP_TYP_MASK == S5_TYPE << SLP_TYP_SHIFT
            with self._lock:
                self._control = value & SLP_TYP_MASK
                if value & SLP_EN and not poweroff:
                    self._status |= WAK_STS
            if value & SLP_EN and poweroff:
                self._on_poweroff()
        elif offset == SLEEP_STATUS:
            with self._lock:
                self._status &= ~(value & WAK_STS)
        elif offset == RESET and value == RESET_VALUE:
            self._on_reset()

    def reset(self) -> None:
        """Sleep control and status clear."""
        with self._lock:
            self._control = self._status = 0

    def save(self) -> dict[str, object]:
        """Both registers."""
        with self._lock:
            return {"version": 1, "control": self._control, "status": self._status}

    def load(self, state: dict[str, object]) -> None:
        """Restore what ``save`` returned. Raises KeyError or TypeError for anything else."""
        control, status = state["control"], state["status"]
        if not (isinstance(control, int) and isinstance(status, int)):
            raise TypeError("the saved state of the ACPI power registers has fields of the wrong type")
        with self._lock:
            self._control, self._status = control & SLP_TYP_MASK, status & WAK_STS
