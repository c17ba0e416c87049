"""A bus: from an address to the device that answers there."""

from __future__ import annotations

from _thread import allocate_lock
from bisect import bisect_right

from pyvmm.board.board import PlacementError
from pyvmm.board.space import IRQ, SPACE_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board.device import Device
    from pyvmm.board.space import Window


class Bus:
    """Devices by address, in one *space*, MMIO or PORT. Raises PlacementError for IRQ.

    vCPU threads look up without a lock: the table is one tuple, replaced as a whole. An access that no device
    claims reads as all ones, or is ignored, as on an empty ISA or PCI bus, and is counted in
    ``unclaimed_reads`` or ``unclaimed_writes``. No device claims an access that crosses an end of its window.
    """

    def __init__(self, space: int) -> None:
        if space == IRQ:
            raise PlacementError("a bus has addresses; interrupt lines have none")
        self.space = space
        self.unclaimed_reads = 0
        self.unclaimed_writes = 0
        self._lock = allocate_lock()  # attach, detach and the counters; not held while a device is called
        self._attached: list[tuple[Window, Device]] = []
        self._table: tuple[list[int], list[int], list[Device]] = ([], [], [])

    def attach(self, window: Window, device: Device) -> None:
        """Let *device* answer in *window*. Raises PlacementError for a wrong space or an overlap."""
        if window.space != self.space:
            raise PlacementError(
                f"{window} cannot be attached to the {SPACE_NAMES[self.space]} bus; use its own"
            )
        with self._lock:
            for other, _ in self._attached:
                if other.base < window.end and window.base < other.end:
                    raise PlacementError(f"{window} overlaps {other}; move one of them")
            self._replace([*self._attached, (window, device)])

    def detach(self, window: Window) -> None:
        """Remove the device in *window*. Raises PlacementError when it is not attached."""
        with self._lock:
            left = [entry for entry in self._attached if entry[0] is not window]
            if len(left) == len(self._attached):
                raise PlacementError(f"{window} is not attached; it cannot be detached")
            self._replace(left)

    def find(self, address: int, size: int) -> tuple[Device, int] | None:
        """The device that answers to all *size* bytes at *address*, and the offset in its window."""
        bases, ends, devices = self._table
        index = bisect_right(bases, address) - 1
        if index >= 0 and address + size <= ends[index]:
            return devices[index], address - bases[index]
        return None

    def read(self, address: int, size: int) -> int:
        """What the guest reads: *size* bytes (1, 2, 4 or 8) at *address* as a number."""
        bases, ends, devices = self._table
        index = bisect_right(bases, address) - 1
        if index >= 0 and address + size <= ends[index]:
            return devices[index].read(address - bases[index], size)
        with self._lock:
            self.unclaimed_reads += 1
        return (1 << 8 * size) - 1

    def write(self, address: int, size: int, value: int) -> None:
        """What the guest writes: *value* to the *size* bytes (1, 2, 4 or 8) at *address*."""
        bases, ends, devices = self._table
        index = bisect_right(bases, address) - 1
        if index >= 0 and address + size <= ends[index]:
            devices[index].write(address - bases[index], size, value)
            return
        with self._lock:
            self.unclaimed_writes += 1

    def close(self) -> None:
        """Close the devices; they stay attached."""
        for _, device in self._attached:
            device.close()

    def _replace(self, attached: list[tuple[Window, Device]]) -> None:
        attached.sort(key=lambda entry: entry[0].base)
        self._attached = attached
        self._table = (
            [window.base for window, _ in attached],
            [window.end for window, _ in attached],
            [device for _, device in attached],
        )
