"""The registers of a VGA's CRT controller, without a display: kernels keep the text cursor in them.

Teaching kernels (xv6) write to the text screen beside the serial port, unconditionally, and take the cursor's
position from registers 14 and 15. Screen memory at 0xb8000 is RAM; nothing shows it. Registers and
indices: IBM VGA technical reference, CRT controller registers.
"""

from __future__ import annotations

from pyvmm.board.device import Device

# Offsets in the window.
INDEX = 0
DATA = 1
#: Bytes of the window: the colour text modes' ports 0x3d4 and 0x3d5.
SIZE = 2

#: The last of the registers, by index.
LAST = 0x18
_COUNT = LAST + 1
_INDEX_MASK = 0x3F


class Crtc(Device):
    """An index and the registers that it chooses, which keep what is written."""

    name = "CRT controller"

    def __init__(self) -> None:
        self._index = 0
        self._registers = bytearray(_COUNT)

    def read(self, offset: int, size: int) -> int:
        """The index, the register that it chooses, or both."""
        register = self._registers[self._index] if self._index < _COUNT else 0
        if size == 2:
            return self._index | register << 8
        return self._index if offset == INDEX else register

    def write(self, offset: int, size: int, value: int) -> None:
        """Set the index, the register that it chooses, or both in this order."""
        if offset == INDEX:
            self._index = value & _INDEX_MASK
            if size == 1:
                return
            value >>= 8
        if self._index < _COUNT:
            self._registers[self._index] = value

    def reset(self) -> None:
        """All registers are 0."""
        self._index = 0
        self._registers = bytearray(_COUNT)

    def save(self) -> dict[str, object]:
        """Index and registers."""
        return {"version": 1, "index": self._index, "registers": list(self._registers)}

    def load(self, state: dict[str, object]) -> None:
        """Restore what ``save`` returned. Raises KeyError, TypeError or ValueError for anything else."""
        index, registers = state["index"], state["registers"]
        if not (isinstance(index, int) and isinstance(registers, list)):
            raise TypeError("the saved state of the CRT controller has fields of the wrong type")
        values = bytearray(registers)
        if len(values) != _COUNT:
            raise ValueError(f"the saved state of the CRT controller has {len(values)} registers")
        self._index, self._registers = index & _INDEX_MASK, values
