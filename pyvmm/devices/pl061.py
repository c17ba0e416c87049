"""The PL061: eight general-purpose lines. One of them is the machine's power button.

After the PL061 Technical Reference Manual (ARM DDI 0190B, section 3.3), and what Linux's
``drivers/gpio/gpio-pl061.c`` relies on. ``press`` raises an input line until the guest has read it; levels
that the guest drives on output lines are passed to ``on_output``.
"""

from __future__ import annotations

from _thread import allocate_lock
from functools import partial

from pyvmm.board.device import Level, Line
from pyvmm.devices.primecell import PrimeCell, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.board.timers import Timers

#: The data register: address bits 9:2 select the lines of an access.
DATA = 0x000
DATA_END = 0x400
DIR = 0x400
IS = 0x404
IBE = 0x408
IEV = 0x40C
IE = 0x410
RIS = 0x414
MIS = 0x418
IC = 0x41C
AFSEL = 0x420
_STORED = (DIR, IS, IBE, IEV, IE, AFSEL)
_LINES = 0xFF

#: Seconds a pressed button stays down at least: longer than drivers debounce.
PRESSED = 0.1
#: By how many times PRESSED that is extended at most, for a guest that does not read the line.
PATIENCE = 49


class Pl061(PrimeCell):
    """The lines and their interrupt.

    :param line: level; driven while an enabled line's interrupt is pending
    :param on_output: called with the output lines' levels, one bit each, when the guest has changed one
    """

    name = "PL061 GPIO"
    peripheral_id = b"\x61\x10\x04\x00"

    def __init__(
        self,
        timers: Timers,
        line: Line | None = None,
        on_output: Callable[[int], object] = lambda levels: None,
    ) -> None:
        self._timers = timers
        self._line = Level(line)
        self._on_output = on_output
        self._lock = allocate_lock()
        self._inputs = 0
        self._outputs = 0
        self._edges = 0
        self._seen = 0  # lines that were read high since they were pressed last
        self._regs = dict.fromkeys(_STORED, 0)

    def press(self, number: int) -> None:
        """Press the button on line *number* (0-7); released when the guest has read the line. Any thread.

        A fixed time would be too short for a guest on a busy host, whose driver reads the line late.
        """
        with self._lock:
            self._seen &= ~(1 << number)  # before the line rises: the guest may read it at once
        self.drive(number, True)
        self._timers.call_later(PRESSED, partial(self._release, number, PATIENCE))

    def drive(self, number: int, level: bool) -> None:
        """The host's level on line *number* (0-7). Any thread."""
        bit = 1 << number
        with self._lock:
            before = self._pins()
            self._inputs = self._inputs | bit if level else self._inputs & ~bit
            self._latch(before)
            self._update()

    def reset(self) -> None:
        """All lines inputs, no interrupt."""
        with self._lock:
            self._regs = dict.fromkeys(_STORED, 0)
            self._outputs = self._edges = 0
            self._update()

    def save(self) -> dict[str, object]:
        """Registers, outputs, and what the host drives."""
        with self._lock:
            registers = [self._regs[offset] for offset in _STORED]
            return {"version": 1, "registers": registers, "pins": [self._inputs, self._outputs, self._edges]}

    def load(self, state: dict[str, object]) -> None:
        """Restore what ``save`` returned. Raises KeyError, TypeError or ValueError for anything else."""
        registers = words(state, "registers", len(_STORED), self.name)
        pins = words(state, "pins", 3, self.name)
        with self._lock:
            self._regs = {o: value & _LINES for o, value in zip(_STORED, registers, strict=True)}
            self._inputs, self._outputs, self._edges = (value & _LINES for value in pins)
            self._update()

    def _read_register(self, offset: int) -> int:
        with self._lock:
            if offset < DATA_END:
                pins = self._pins() & offset >> 2
                self._seen |= pins
                return pins
            if offset == RIS:
                return self._pending()
            if offset == MIS:
                return self._pending() & self._regs[IE]
            return self._regs.get(offset, 0)

    def _write_register(self, offset: int, value: int) -> None:
        value &= _LINES
        with self._lock:
            before, was = self._pins(), self._outputs & self._regs[DIR]
            if offset < DATA_END:
                mask = offset >> 2
                self._outputs = self._outputs & ~mask | value & mask
            elif offset == IC:
                self._edges &= ~value
            elif offset in _STORED:
                self._regs[offset] = value
            else:
                return
            self._latch(before)
            self._update()
            now = self._outputs & self._regs[DIR]
        if now != was:
            self._on_output(now)

    def _release(self, number: int, patience: int) -> None:
        """Release the button if the guest has read the line, or *patience* is 0. In the loop's thread."""
        if patience and not self._seen >> number & 1:
            self._timers.call_later(PRESSED, partial(self._release, number, patience - 1))
        else:
            self.drive(number, False)

    # The methods below are called under the lock.

    def _pins(self) -> int:
        direction = self._regs[DIR]
        return self._inputs & ~direction | self._outputs & direction

    def _latch(self, before: int) -> None:
        """Latch the edges that interrupt: both, or the one that IEV selects."""
        now = self._pins()
        rising, falling = now & ~before, before & ~now
        both, event = self._regs[IBE], self._regs[IEV]
        wanted = (rising | falling) & both | (rising & event | falling & ~event) & ~both
        self._edges |= wanted & ~self._regs[IS] & _LINES

    def _pending(self) -> int:
        sensed = self._regs[IS]
        level = ~(self._pins() ^ self._regs[IEV])
        return (self._edges & ~sensed | level & sensed) & _LINES

    def _update(self) -> None:
        self._line.set(bool(self._pending() & self._regs[IE]))
