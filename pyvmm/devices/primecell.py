"""What ARM's PrimeCell peripherals have in common: 32-bit registers in 4 KiB, identification registers.

Every PrimeCell ends with eight identification registers of a byte each (for example PL011: ARM DDI
0183, section 3.3.14 and following); Linux's AMBA bus finds drivers by them.
"""

from __future__ import annotations

from pyvmm.board.device import Device

#: Bytes of a PrimeCell's registers.
SIZE = 0x1000

PERIPH_ID = 0xFE0
_CELL_ID = b"\x0d\xf0\x05\xb1"


class PrimeCell(Device):
    """Registers as words; a subclass has ``_read_register`` and ``_write_register``.

    An access of 1 or 2 bytes reads that part of a register, one of 8 bytes two registers. A write of 1 or 2
    bytes is extended by zeroes, as drivers of the serial port expect; one that begins inside a register is
    ignored.
    """

    #: Part number (12 bits), designer 0x41 (ARM), revision, configuration: PeriphID0 to 3.
    peripheral_id = b"\0\0\0\0"

    def read(self, offset: int, size: int) -> int:
        """Read a register, a part of one, or two."""
        at, shift = offset & ~3, 8 * (offset & 3)
        value = self._identity(at) if at >= PERIPH_ID else self._read_register(at)
        if 8 * size + shift > 32:
            value |= (self.read(at + 4, 4) if at + 4 < SIZE else 0) << 32
        return value >> shift & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register, or two."""
        if offset & 3 or offset >= PERIPH_ID:
            return
        self._write_register(offset, value & 0xFFFF_FFFF)
        if size == 8:
            self.write(offset + 4, 4, value >> 32)

    def _identity(self, offset: int) -> int:
        return (self.peripheral_id + _CELL_ID)[offset - PERIPH_ID >> 2]

    def _read_register(self, offset: int) -> int:
        raise NotImplementedError

    def _write_register(self, offset: int, value: int) -> None:
        raise NotImplementedError


def words(state: dict[str, object], name: str, count: int, device: str) -> list[int]:
    """The *count* registers saved under *name*. KeyError, TypeError or ValueError for anything else."""
    values = state[name]
    if not isinstance(values, list) or not all(isinstance(value, int) for value in values):
        raise TypeError(f"the saved state of a {device} has fields of the wrong type")
    if len(values) != count or not all(0 <= value <= 0xFFFF_FFFF for value in values):
        raise ValueError(f"the saved state of a {device} has not {count} registers of 32 bits")
    return values
