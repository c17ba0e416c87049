"""A serial port whose byte registers are 2 or more bytes apart, as on boards with wider buses."""

from __future__ import annotations

from pyvmm.board.device import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.uart import Backend, Uart


class Spaced(Device):
    """*port* with register n at offset n << *shift*; a wider access reads and writes its lowest byte."""

    def __init__(self, port: Uart, shift: int) -> None:
        self.name = port.name
        self._port = port
        self._shift = shift

    def connect(self, backend: Backend) -> None:
        """Passed on to the port."""
        self._port.connect(backend)

    def tap(self, observer: Callable[[bytes], object]) -> None:
        """Passed on to the port."""
        self._port.tap(observer)

    def read(self, offset: int, size: int) -> int:
        """Read a register."""
        return self._port.read(offset >> self._shift, 1)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register."""
        self._port.write(offset >> self._shift, 1, value & 0xFF)

    def reset(self) -> None:
        """Passed on to the port."""
        self._port.reset()

    def close(self) -> None:
        """Passed on to the port."""
        self._port.close()

    def save(self) -> dict[str, object]:
        """Passed on to the port."""
        return self._port.save()

    def load(self, state: dict[str, object]) -> None:
        """Passed on to the port."""
        self._port.load(state)
