"""A bus: from an address to the device that answers there."""

from __future__ import annotations

from _thread import allocate_lock
from bisect import bisect_right

from pyvmm.board.board import PlacementError
from pyvmm.board.space import IRQ, SPACE_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm.board.device import Device
    from pyvmm.board.space import Window

#: Bytes of an access that a device is given, the widest first.
_WIDTHS = (8, 4, 2, 1)


class Bus:
    """Devices by address, in one *space*, MMIO or PORT. Raises PlacementError for IRQ.

    vCPU threads look up without a lock: the table is one tuple, replaced as a whole. An access that crosses
    an end of a window is split, lowest address first, as an ISA bus does for 8-bit devices: each device gets
    the bytes that are its own, in aligned pieces of 1, 2, 4 or 8. So is one of 3, 5, 6 or 7 bytes, which KVM
    makes of an access that crosses a page. Bytes that no device claims read as ones and are dropped when
    written, as on an empty ISA or PCI bus; an access with such bytes is counted in ``unclaimed_reads`` or
    ``unclaimed_writes``.
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
        """The device that gets all *size* bytes at *address* in one access, and the offset in its window."""
        bases, ends, devices = self._table
        index = bisect_right(bases, address) - 1
        if index >= 0 and address + size <= ends[index] and size in _WIDTHS:
            return devices[index], address - bases[index]
        return None

    def read(self, address: int, size: int) -> int:
        """What the guest reads: *size* bytes (1 to 8) at *address* as a number."""
        found = self.find(address, size)
        if found is not None:
            return found[0].read(found[1], size)
        data = bytearray(b"\xff" * size)
        claimed = 0
        for at, width, device, offset in self._pieces(address, size):
            data[at : at + width] = device.read(offset, width).to_bytes(width, "little")
            claimed += width
        if claimed < size:
            with self._lock:
                self.unclaimed_reads += 1
        return int.from_bytes(data, "little")

    def write(self, address: int, size: int, value: int) -> None:
        """What the guest writes: *value* to the *size* bytes (1 to 8) at *address*."""
        found = self.find(address, size)
        if found is not None:
            found[0].write(found[1], size, value)
            return
        claimed = 0
        for at, width, device, offset in self._pieces(address, size):
            device.write(offset, width, value >> 8 * at & (1 << 8 * width) - 1)
            claimed += width
        if claimed < size:
            with self._lock:
                self.unclaimed_writes += 1

    def owner(self, address: int, size: int) -> Device | None:
        """The first device that has one of the *size* bytes (1 to 8) at *address*."""
        return next((device for _, _, device, _ in self._pieces(address, size)), None)

    def close(self) -> None:
        """Close the devices; they stay attached."""
        for _, device in self._attached:
            device.close()

    def _pieces(self, address: int, size: int) -> Iterator[tuple[int, int, Device, int]]:
        """The parts of an access that devices get: position in the access, width, device, offset in it."""
        bases, ends, devices = self._table
        at, behind = address, address + size
        while at < behind:
            index = bisect_right(bases, at) - 1
            if index < 0 or at >= ends[index]:
                at += 1
                continue
            left = min(ends[index], behind) - at
            width = next(width for width in _WIDTHS if width <= left and at % width == 0)
            yield at - address, width, devices[index], at - bases[index]
            at += width

    def _replace(self, attached: list[tuple[Window, Device]]) -> None:
        attached.sort(key=lambda entry: entry[0].base)
        self._attached = attached
        self._table = (
            [window.base for window, _ in attached],
            [window.end for window, _ in attached],
            [device for _, device in attached],
        )
