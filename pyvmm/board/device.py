"""The base class of emulated devices, and the interrupt line of a device."""

from __future__ import annotations


class Line:
    """One interrupt line. A machine gives its devices a subclass that reaches the guest.

    The base class has no effect: for a device without an interrupt.
    """

    def set(self, level: bool) -> None:
        """Drive the line: True asserts, False deasserts."""

    def pulse(self) -> None:
        """Assert and deassert: one edge."""
        self.set(True)
        self.set(False)


class Level(Line):
    """A level-triggered line: only changes of the level reach *line*. The caller serializes the calls."""

    def __init__(self, line: Line | None = None) -> None:
        self._line = line if line is not None else Line()
        #: The line's level.
        self.level = False

    def set(self, level: bool) -> None:
        """Drive the line, if it is not at *level* yet."""
        if level != self.level:
            self.level = level
            self._line.set(level)


class Device:
    """A device behind a window of port or memory-mapped I/O.

    It knows neither its address nor KVM. ``read`` and ``write`` are called by any vCPU
    thread, without a lock; *size* is 1, 2, 4 or 8 bytes and the access lies wholly inside
    the window: of one that does not, the bus gives the device the part that is its own.
    """

    #: What the device is called in messages and in ``describe``.
    name = "device"
    #: Its interrupt line; without effect until ``Machine.add_device(irq=...)`` sets it.
    line = Line()

    def read(self, offset: int, size: int) -> int:
        """The *size* bytes at *offset*, little-endian, as a number; all ones where nothing answers."""
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Store *value* (0 <= value < 2**(8*size)) at *offset*; dropped where nothing answers."""

    def write_many(self, offset: int, data: bytes) -> None:
        """One-byte writes of *data* to *offset* in turn: string instructions and coalesced writes."""
        for value in data:
            self.write(offset, 1, value)

    def write_burst(self, offset: int, size: int, values: list[int]) -> None:
        """``write`` of each of *values* to *offset* in turn: coalesced writes of more than one byte."""
        for value in values:
            self.write(offset, size, value)

    def reset(self) -> None:
        """Back to the state after power-on."""

    def resume(self) -> None:
        """The machine continues after a pause: catch up with clocks that went on, such as the host's date.

        Timers of the machine's clock need nothing. Called before any vCPU runs.
        """

    def close(self) -> None:
        """The machine has ended: cancel timers, release the host's objects. Idempotent."""

    def save(self) -> dict[str, object]:
        """The state as plain values, with a ``version`` key."""
        return {"version": 1}

    def load(self, state: dict[str, object]) -> None:
        """Restore a state that ``save`` returned. Raises KeyError, TypeError or ValueError for any other."""
