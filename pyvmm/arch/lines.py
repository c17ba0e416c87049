"""Interrupt lines of the in-kernel interrupt controllers."""

from __future__ import annotations

from _thread import allocate_lock

from pyvmm.board.device import Line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.pykvm import Vm


class IrqLine(Line):
    """Interrupt input *number*, as KVM_IRQ_LINE counts them, of *vm*. Any thread."""

    __slots__ = ("_lock", "_number", "_pulse", "_vm")

    def __init__(self, vm: Vm, number: int) -> None:
        self._vm = vm
        self._number = number
        self._pulse = vm.irq_pulse(number)
        # Devices that share the line take turns: a rise while the line is up would be no edge.
        self._lock = allocate_lock()

    def set(self, level: bool) -> None:
        """Drive the line."""
        self._vm.irq_line(self._number, level)

    def pulse(self) -> None:
        """Assert and deassert: one edge."""
        with self._lock:
            self._pulse()
