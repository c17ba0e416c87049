"""What a bus can drive: the device base class, and the wire a device interrupts through."""

from __future__ import annotations


class Line:
    """One interrupt wire. The machine hands a device a subclass that reaches the guest.

    The base class goes nowhere: a device not wired to an interrupt gets this one.
    """

    def set(self, level: bool) -> None:
        """Drive the wire: True asserts, False releases."""

    def pulse(self) -> None:
        """Assert and release: one edge."""
        self.set(True)
        self.set(False)


class Level(Line):
    """A wire driven by its level: *line* hears of changes alone. Calls come one at a time."""

    def __init__(self, line: Line | None = None) -> None:
        self._line = line if line is not None else Line()
        #: The wire's level.
        self.level = False

    def set(self, level: bool) -> None:
        """Drive the wire, if it is not at *level* yet."""
        if level != self.level:
            self.level = level
            self._line.set(level)


class Device:
    """A device behind a window of port or memory-mapped I/O.

    It knows neither its address nor KVM. ``read`` and ``write`` are called by any vCPU
    thread, without a lock; *size* is 1, 2, 4 or 8 bytes and the access lies wholly inside
    the window.
    """

    #: What the device is called in messages and in ``describe``.
    name = "device"
    #: Its interrupt; goes nowhere until ``Machine.add_device`` sets it to one that was asked for.
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
        """As ``write`` of each of *values* to *offset* in turn: coalesced writes of more than a byte."""
        for value in values:
            self.write(offset, size, value)

    def reset(self) -> None:
        """Back to the state after power-on."""

    def resume(self) -> None:
        """The machine goes on after a pause; timers of its clock go on by themselves.

        Called before any vCPU runs. For what follows another clock, such as the host's date and time.
        """

    def close(self) -> None:
        """The machine is over: let go of timers and the host's objects. Idempotent."""

    def save(self) -> dict[str, object]:
        """The state as plain values, with a ``version`` key."""
        return {"version": 1}

    def load(self, state: dict[str, object]) -> None:
        """Take back what ``save`` gave."""
