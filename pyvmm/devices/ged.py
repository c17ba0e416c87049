"""The generic event device: how the host notifies the guest of events through ACPI.

One 32-bit register has the pending events; reading a byte of it clears that byte. Its
interrupt makes the guest run _EVT of the ACPI0013 device (ACPI specification 6.5, 5.6.9; Linux's
``drivers/acpi/evged.c``), which reads the register and notifies the device concerned.
"""

from __future__ import annotations

from _thread import allocate_lock

from pyvmm.board.device import Device, Line

# Register offsets.
EVENTS = 0
#: Bytes of the window.
SIZE = 4

#: Bits of EVENTS.
POWER_BUTTON = 1 << 0


class Ged(Device):
    """The event register and its interrupt.

    :param line: pulsed for each event; edge
    """

    name = "generic event device"

    def __init__(self, line: Line) -> None:
        self._line = line
        self._lock = allocate_lock()
        self._events = 0

    def power_button(self) -> None:
        """Press the power button: ask the guest for a clean shutdown. Any thread.

        The guest may ignore it. Pressing again before the guest has read the register gives another interrupt
        and no second event.
        """
        # The bit first: the guest may read the register before pulse() returns.
        with self._lock:
            self._events |= POWER_BUTTON
        self._line.pulse()

    def read(self, offset: int, size: int) -> int:
        """The pending events in these bytes; the read clears them."""
        mask = (1 << 8 * size) - 1 << 8 * offset
        with self._lock:
            events = self._events & mask
            self._events &= ~mask
        return events >> 8 * offset

    def reset(self) -> None:
        """No event is pending."""
        with self._lock:
            self._events = 0

    def save(self) -> dict[str, object]:
        """The pending events. A pending interrupt is the interrupt controller's state."""
        with self._lock:
            return {"version": 1, "events": self._events}

    def load(self, state: dict[str, object]) -> None:
        """Restore what ``save`` returned. Raises KeyError or TypeError for anything else."""
        events = state["events"]
        if not isinstance(events, int):
            raise TypeError("the saved state of the generic event device has a field of the wrong type")
        with self._lock:
            self._events = events & 0xFFFF_FFFF
