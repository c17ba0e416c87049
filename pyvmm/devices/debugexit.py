"""The debug-exit port: the byte a guest writes there ends its VM.

For test kernels and firmware; the customary port 0x501 and its meaning come from QEMU's
isa-debug-exit; the machine computes the exit code.
"""

from __future__ import annotations

from pyvmm.board.device import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes of the window.
SIZE = 1


class DebugExit(Device):
    """One write-only byte; reads are all ones.

    :param on_exit: called with the byte, 0-255, by the vCPU that wrote it
    """

    name = "debug exit"

    def __init__(self, on_exit: Callable[[int], object]) -> None:
        self._on_exit = on_exit

    def write(self, offset: int, size: int, value: int) -> None:
        """End the VM."""
        self._on_exit(value & 0xFF)
