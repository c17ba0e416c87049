"""Ports that switch a PC off, where QEMU's board, Bochs and VirtualBox have them.

Kernels that read no ACPI tables write to fixed ports: the power management control register (PM1_CNT, ACPI
specification 6.5, section 4.8.3.2.1) of QEMU's boards, of Bochs and old QEMU, and of VirtualBox, or Bochs'
shutdown port. The sleep type that means "off" differs: 0 in QEMU and Bochs, 5 in VirtualBox.
"""

from __future__ import annotations

from _thread import allocate_lock

from pyvmm.board.device import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes of a PM1 control register.
PM1_SIZE = 2
#: Bytes of Bochs' shutdown port.
SHUTDOWN_SIZE = 1

SCI_EN = 1 << 0
SLP_TYP_SHIFT = 10
SLP_TYP_MASK = 7 << SLP_TYP_SHIFT
SLP_EN = 1 << 13
#: The sleep types that switch off; there is no other sleep state, so the rest have no effect.
OFF_TYPES = (0, 5)

#: What is written to Bochs' shutdown port, a byte at a time.
SHUTDOWN = b"Shutdown"


class Pm1Control(Device):
    """A PM1 control register: SLP_EN with a sleep type of OFF_TYPES switches the machine off.

    :param on_poweroff: called by the vCPU that wrote it
    """

    name = "PM1 control register"

    def __init__(self, on_poweroff: Callable[[], object]) -> None:
        self._on_poweroff = on_poweroff
        self._lock = allocate_lock()
        self._control = 0

    def read(self, offset: int, size: int) -> int:
        """The sleep type, and SCI_EN if it was written; SLP_EN reads as zero."""
        return self._control >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write one byte of the register, or both."""
        mask = (1 << 8 * size) - 1 << 8 * offset
        with self._lock:
            control = self._control & ~mask | value << 8 * offset
            self._control = control & (SLP_TYP_MASK | SCI_EN)
        if control & SLP_EN and (control & SLP_TYP_MASK) >> SLP_TYP_SHIFT in OFF_TYPES:
            self._on_poweroff()

    def reset(self) -> None:
        """The register is 0."""
        self._control = 0

    def save(self) -> dict[str, object]:
        """The register."""
        return {"version": 1, "control": self._control}

    def load(self, state: dict[str, object]) -> None:
        """Restore what ``save`` returned. Raises KeyError or TypeError for anything else."""
        control = state["control"]
        if not isinstance(control, int):
            raise TypeError("the saved state of a PM1 control register has a field of the wrong type")
        self._control = control & (SLP_TYP_MASK | SCI_EN)


class ShutdownPort(Device):
    """Bochs' shutdown port: the bytes of SHUTDOWN, one after another, switch the machine off.

    :param on_poweroff: called by the vCPU that wrote the last byte
    """

    name = "shutdown port"

    def __init__(self, on_poweroff: Callable[[], object]) -> None:
        self._on_poweroff = on_poweroff
        self._lock = allocate_lock()
        self._matched = 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Take the next byte; one that does not fit begins anew."""
        with self._lock:
            if value != SHUTDOWN[self._matched]:
                self._matched = 0
            self._matched = matched = self._matched + (value == SHUTDOWN[self._matched])
            if matched == len(SHUTDOWN):
                self._matched = 0
        if matched == len(SHUTDOWN):
            self._on_poweroff()

    def reset(self) -> None:
        """Nothing was written yet."""
        self._matched = 0

    def save(self) -> dict[str, object]:
        """How many bytes fitted."""
        return {"version": 1, "matched": self._matched}

    def load(self, state: dict[str, object]) -> None:
        """Restore what ``save`` returned. Raises KeyError, TypeError or ValueError for anything else."""
        matched = state["matched"]
        if not isinstance(matched, int):
            raise TypeError("the saved state of the shutdown port has a field of the wrong type")
        if not 0 <= matched < len(SHUTDOWN):
            raise ValueError(f"the saved state of the shutdown port has {matched} bytes of {len(SHUTDOWN)}")
        self._matched = matched
