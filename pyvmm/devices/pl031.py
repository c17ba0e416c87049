"""The PL031 real-time clock: seconds since 1970, and an alarm.

After the PL031 Technical Reference Manual (ARM DDI 0224B, section 3.3), and what Linux's
``drivers/rtc/rtc-pl031.c`` relies on. The time is the host's, in UTC, plus what the guest set.
"""

from __future__ import annotations

import time

from pyvmm.devices.primecell import words
from pyvmm.devices.timed import TimedCell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.board.device import Line
    from pyvmm.board.timers import Timers

# Register offsets (table 3-1).
DR = 0x00
MR = 0x04
LR = 0x08
CR = 0x0C
IMSC = 0x10
RIS = 0x14
MIS = 0x18
ICR = 0x1C

CR_START = 1
INT_RTC = 1
_WORD = 0xFFFF_FFFF


class Pl031(TimedCell):
    """The clock.

    :param line: level; the alarm, while it is pending and not masked
    :param now: the host's time in seconds since 1970
    """

    name = "PL031 real-time clock"
    peripheral_id = b"\x31\x10\x04\x00"

    def __init__(
        self, timers: Timers, line: Line | None = None, now: Callable[[], float] = time.time
    ) -> None:
        super().__init__(timers, line)
        self._now = now
        self._awaited = 0  # the guest's time when the timer was set
        self._offset = 0
        self._match = self._load = self._mask = self._raw = 0
        self._fired = False  # for this match: an alarm acknowledged within its second is not raised again

    def reset(self) -> None:
        """The host's time, no alarm."""
        with self._lock:
            self._offset = self._match = self._load = self._mask = self._raw = 0
            self._changed()

    def save(self) -> dict[str, object]:
        """Registers; the clock as its difference from the host's."""
        with self._lock:
            registers = [self._offset & _WORD, self._match, self._load, self._mask, self._raw]
            return {"version": 1, "registers": registers}

    def load(self, state: dict[str, object]) -> None:
        """Restore what ``save`` returned. Raises KeyError, TypeError or ValueError for anything else."""
        offset, match, load, mask, raw = words(state, "registers", 5, self.name)
        with self._lock:
            self._offset, self._match, self._load = offset, match, load
            self._mask, self._raw = mask & INT_RTC, raw & INT_RTC
            self._changed()

    def resume(self) -> None:
        """An alarm whose time came during the pause is raised now: the time is the host's, and went on."""
        self._expired()

    def _seconds(self) -> int:
        return int(self._now()) + self._offset & _WORD

    def _read_register(self, offset: int) -> int:
        if offset == DR:
            return self._seconds()
        if offset == CR:
            return CR_START
        if offset == MIS:
            return self._raw & self._mask
        return {MR: self._match, LR: self._load, IMSC: self._mask, RIS: self._raw}.get(offset, 0)

    def _write_register(self, offset: int, value: int) -> None:
        with self._lock:
            if offset == MR:
                self._match = value
                self._fired = False
            elif offset == LR:
                self._load = value
                self._offset = value - int(self._now()) & _WORD
                self._fired = False
            elif offset == IMSC:
                self._mask = value & INT_RTC
            elif offset == ICR:
                self._raw &= ~value
            elif offset == CR and value & CR_START:
                pass  # it has been running since power-on; it cannot be stopped
            else:
                return
            self._changed()

    # The methods below are called under the lock.

    def _interrupting(self) -> bool:
        return bool(self._raw & self._mask)

    def _due(self) -> float | None:
        """Seconds to an enabled alarm that is not pending."""
        if self._raw or not self._mask:
            return None
        self._awaited = self._seconds()
        ahead = self._match - self._awaited & _WORD
        if ahead:
            self._fired = False
            return ahead - self._now() % 1
        return None if self._fired else 0

    def _expired(self) -> None:
        """The time has come, the host's clock was set, or the machine goes on. Takes the lock."""
        with self._lock:
            if self._mask and not self._fired and self._passed():
                self._raw, self._fired = INT_RTC, True
            self._changed()

    def _passed(self) -> bool:
        """Whether the alarm lies between the time it was awaited from and now; False for a clock set back."""
        elapsed = self._seconds() - self._awaited & _WORD
        return elapsed <= _WORD >> 1 and (self._match - self._awaited & _WORD) <= elapsed
