"""The SP805 watchdog: a counter that interrupts at zero, and resets the system at the next zero.

After the SP805 Technical Reference Manual (ARM DDI 0270B, section 3.3), and what Linux's
``drivers/watchdog/sp805_wdt.c`` relies on. The counter is computed from the machine's clock when it is
read; a timer runs only while the guest has enabled the watchdog. A pause of the machine stops both.
"""

from __future__ import annotations

from pyvmm.devices.primecell import words
from pyvmm.devices.timed import TimedCell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.board.device import Line
    from pyvmm.board.timers import Timers

# Register offsets (table 3-1).
LOAD = 0x000
VALUE = 0x004
CONTROL = 0x008
INTCLR = 0x00C
RIS = 0x010
MIS = 0x014
LOCK = 0xC00
ITCR = 0xF00
ITOP = 0xF04

CONTROL_INTEN = 1 << 0
CONTROL_RESEN = 1 << 1
UNLOCK = 0x1ACC_E551
LOCKED = 1
_WORD = 0xFFFF_FFFF


class Sp805(TimedCell):
    """The watchdog.

    :param frequency: counts per second (Hz); the device tree has the same
    :param on_bite: called in the loop's thread when the counter has reached zero twice with RESEN set
    """

    name = "SP805 watchdog"
    peripheral_id = b"\x05\x18\x14\x00"

    def __init__(
        self,
        timers: Timers,
        on_bite: Callable[[], object],
        line: Line | None = None,
        frequency: int = 1_000_000,
    ) -> None:
        super().__init__(timers, line)
        self._on_bite = on_bite
        self._frequency = frequency
        self._clock = timers.clock
        self._power_on()

    def reset(self) -> None:
        """Off, unlocked, the counter full."""
        with self._lock:
            self._power_on()
            self._changed()

    def save(self) -> dict[str, object]:
        """Registers, and the present value of the counter."""
        with self._lock:
            registers = [self._load, self._value(), self._control, self._raw, int(self._locked)]
            return {"version": 1, "registers": registers}

    def load(self, state: dict[str, object]) -> None:
        """Restore what ``save`` returned; the counter continues from there.

        Raises KeyError, TypeError or ValueError for anything else.
        """
        load, value, control, raw, locked = words(state, "registers", 5, self.name)
        with self._lock:
            self._load, self._control, self._raw = load, control & 3, raw & 1
            self._locked = bool(locked)
            self._start(value)
            self._changed()

    def _power_on(self) -> None:
        self._load = _WORD
        self._control = self._raw = 0
        self._locked = False
        self._start(_WORD)

    def _read_register(self, offset: int) -> int:
        with self._lock:
            if offset == VALUE:
                return self._value()
            if offset == MIS:
                return self._raw & self._control
            if offset == LOCK:
                return LOCKED if self._locked else 0
            return {LOAD: self._load, CONTROL: self._control, RIS: self._raw}.get(offset, 0)

    def _write_register(self, offset: int, value: int) -> None:
        with self._lock:
            if offset == LOCK:
                self._locked = value != UNLOCK
                return
            if self._locked:
                return
            if offset == LOAD:
                self._load = value
                self._start(value)
            elif offset == CONTROL:
                was, self._control = self._control, value & 3
                if self._control & ~was & CONTROL_INTEN:
                    self._start(self._load)
                elif was & ~self._control & CONTROL_INTEN:
                    self._stopped = self._left(self._load)
            elif offset == INTCLR:
                self._raw = 0
                self._start(self._load)
            else:
                return
            self._changed()

    # The methods below are called under the lock.

    def _start(self, value: int) -> None:
        """Count down from *value*, beginning now, or when the watchdog is enabled."""
        self._stopped = value
        self._zero_at = self._clock() + value / self._frequency

    def _left(self, limit: int) -> int:
        return min(max(int((self._zero_at - self._clock()) * self._frequency), 0), limit, _WORD)

    def _value(self) -> int:
        return self._left(_WORD) if self._control & CONTROL_INTEN else self._stopped

    def _interrupting(self) -> bool:
        return bool(self._raw & self._control & CONTROL_INTEN)

    def _due(self) -> float | None:
        # After the interrupt only the reset can follow.
        if self._control & CONTROL_INTEN and (not self._raw or self._control & CONTROL_RESEN):
            return max(self._zero_at - self._clock(), 0)
        return None

    def _expired(self) -> None:
        """The counter has reached zero. Takes the lock."""
        with self._lock:
            if self._clock() < self._zero_at:  # the guest has reloaded the counter
                self._changed()
                return
            bite = bool(self._raw and self._control & CONTROL_RESEN)
            self._raw = 1
            if bite:
                self._closed = True
            else:
                self._start(max(self._load, 1))
            self._changed()
        if bite:
            self._on_bite()
