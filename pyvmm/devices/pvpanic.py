"""pvpanic: a register by which a guest's kernel says that it has panicked.

Source: QEMU docs/specs/pvpanic.rst; Linux include/uapi/misc/pvpanic.h, drivers/misc/pvpanic. The port and the
identifiers by which kernels find it are QEMU's.
"""

from __future__ import annotations

from pyvmm.board.device import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: The kernel has panicked.
PANICKED = 1 << 0
#: The kernel has panicked, and a crash kernel of its own (kdump) goes on.
CRASH_LOADED = 1 << 1

#: Bytes of the window.
SIZE = 1


class PvPanic(Device):
    """One byte: a read gives the events that are understood, a write tells of those whose bits are set.

    :param on_panic: called by the vCPU that told of a panic: with True when a crash kernel goes on
    """

    name = "pvpanic"

    def __init__(self, on_panic: Callable[[bool], object]) -> None:
        self._on_panic = on_panic

    def read(self, offset: int, size: int) -> int:
        """The events that are understood."""
        return PANICKED | CRASH_LOADED

    def write(self, offset: int, size: int, value: int) -> None:
        """Tell of the panic."""
        if value & (PANICKED | CRASH_LOADED):
            self._on_panic(not value & PANICKED)
