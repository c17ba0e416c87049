"""The emulated devices of a machine by name: each with its place, its bus and its interrupt."""

from __future__ import annotations

from pyvmm.board.space import IRQ, MMIO, PORT
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.board.board import Board
    from pyvmm.board.bus import Bus
    from pyvmm.board.device import Device, Line
    from pyvmm.board.space import Window

#: A device without an address of its own begins at a multiple of this.
_ALIGN = 0x1000


class Placement:
    """Where a device is: *size* bytes at *address*, or at *port*; interrupt *irq*, None without one."""

    __slots__ = ("address", "irq", "port", "size")

    def __init__(self, size: int, address: int | None, port: int | None, irq: int | None) -> None:
        self.size = size
        #: Guest-physical address; None for I/O ports.
        self.address = address
        #: First I/O port; None for memory-mapped registers.
        self.port = port
        #: The interrupt's number (GSI).
        self.irq = irq

    def __repr__(self) -> str:
        where = f"port={self.port:#x}" if self.port is not None else f"address={self.address:#x}"
        return f"Placement({where}, size={self.size:#x}, irq={self.irq})"


class DeviceTable:
    """Places devices, attaches them to the machine's buses and connects their interrupts, while it is built.

    :param line: gives the interrupt line of a number
    :param port_base: the guest-physical address of I/O port 0; None where ports are a space of their own
    """

    def __init__(
        self,
        board: Board,
        ports: Bus,
        mmio: Bus,
        line: Callable[[int], Line],
        port_base: int | None = None,
    ) -> None:
        self._board = board
        self._ports = ports
        self._mmio = mmio
        self._line = line
        self._port_base = port_base
        self._devices: dict[str, Device] = {}

    def values(self) -> list[Device]:
        """The devices, in the order they were added."""
        return list(self._devices.values())

    def items(self) -> list[tuple[str, Device]]:
        """Name and device of each, in the order they were added."""
        return list(self._devices.items())

    def line(self, owner: str, irq: int | None = None) -> tuple[Line, int]:
        """Take interrupt *irq*, the first free one for None; its line and number. Raises PlacementError."""
        if irq is None:
            irq = self._board.allocate(IRQ, 1, owner).base
        else:
            self._board.place(IRQ, irq, 1, owner)
        return self._line(irq), irq

    def add(
        self,
        name: str,
        device: Device,
        size: int,
        *,
        port: int | None = None,
        address: int | None = None,
        irq: int | bool | None = None,
    ) -> Placement:
        """Let *device* answer to *size* bytes at *port* or *address*, without either at a free address.

        *irq* is an interrupt's number, or True for the first free one: ``device.line`` becomes its line.
        Raises PlacementError for a name, a place or an interrupt that is taken, ConfigError for both a port
        and an address; nothing is taken then.
        """
        if port is not None and address is not None:
            raise ConfigError(f"{name!r} is given a port and an address; leave one of them out")
        self._board.register(name)
        try:
            bus, window = self._place(name, size, port, address)
            number = None
            if irq is not None and irq is not False:
                device.line, number = self.line(name, None if irq is True else irq)
            bus.attach(window, device)
        except BaseException:
            self._board.release(name)
            raise
        self._devices[name] = device
        return Placement(size, window.base if port is None else None, port, number)

    def _place(self, name: str, size: int, port: int | None, address: int | None) -> tuple[Bus, Window]:
        if port is not None:
            window = self._board.place(PORT, port, size, name)
            if self._port_base is None:
                return self._ports, window
            address = self._port_base + port
        if address is None:
            return self._mmio, self._board.allocate(MMIO, size, name, _ALIGN)
        return self._mmio, self._board.place(MMIO, address, size, name)
