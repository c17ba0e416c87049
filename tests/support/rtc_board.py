"""A clock chip with time, loop and wire played by the test."""

from __future__ import annotations

import calendar
from collections.abc import Callable

from pyvmm.board.device import Line
from pyvmm.devices.rtc import Mc146818

#: Sunday, 22 November 2026, 23:58:57 UTC, at the start of a second.
START = calendar.timegm((2026, 11, 22, 23, 58, 57))

UIP = 0x80
SET, PIE, AIE, UIE, BINARY, H24 = 0x80, 0x40, 0x20, 0x10, 0x04, 0x02
IRQF, PF, AF, UF = 0x80, 0x40, 0x20, 0x10


class Wire(Line):
    def __init__(self) -> None:
        self.level = False
        self.rises = 0

    def set(self, level: bool) -> None:
        assert level != self.level, "only changes"
        self.level = level
        self.rises += level


class Call:
    """What ``Loop.call_later`` returns."""

    def __init__(self, when: float, function: Callable[[], object]) -> None:
        self.when = when
        self.function = function
        self.active = True

    def cancel(self) -> None:
        self.active = False


class Board:
    """The chip in a machine of 4.5 GiB, with a clock that goes only in ``pass_time``."""

    def __init__(self, now: float = START, below_4g: int = 3 << 30, above_4g: int = 3 << 29) -> None:
        self.now = float(now)
        self._paused = 0.0
        self.calls: list[Call] = []
        self.wire = Wire()
        self.rtc = Mc146818(self, self.wire, below_4g, above_4g, lambda: self.now)

    def clock(self) -> float:
        """The machine's time: without that of pauses."""
        return self.now - self._paused

    def pause(self, seconds: float) -> None:
        """Let the machine stand still for so long, and go on."""
        self.now += seconds
        self._paused += seconds
        for call in self.waiting:
            call.when += seconds
        self.rtc.resume()

    def call_later(self, seconds: float, function: Callable[[], object]) -> Call:
        assert seconds >= 0
        call = Call(self.now + seconds, function)
        self.calls = [*self.waiting, call]
        return call

    @property
    def waiting(self) -> list[Call]:
        return [call for call in self.calls if call.active]

    def pass_time(self, seconds: float) -> None:
        """Let time pass; every timer due fires at its time, as the loop would have it."""
        end = self.now + seconds
        while due := [call for call in self.waiting if call.when <= end]:
            call = min(due, key=lambda call: call.when)
            call.active = False
            self.now = max(self.now, call.when)
            call.function()
        self.now = end

    def get(self, index: int) -> int:
        self.rtc.write(0, 1, index)
        return self.rtc.read(1, 1)

    def put(self, index: int, value: int) -> None:
        self.rtc.write(0, 1, index)
        self.rtc.write(1, 1, value)

    def time(self) -> list[int]:
        """Century, year, month, day, hours, minutes, seconds as they are in the registers."""
        return [self.get(index) for index in (0x32, 9, 8, 7, 4, 2, 0)]

    def set_time(self, values: list[int]) -> None:
        """As Linux's mc146818_set_time: SET, divider reset, registers, then both back."""
        control, rate = self.get(0x0B), self.get(0x0A)
        self.put(0x0B, control | SET)
        self.put(0x0A, rate | 0x70)
        for index, value in zip((0x32, 9, 8, 7, 4, 2, 0), values, strict=True):
            self.put(index, value)
        self.put(0x0B, control)
        self.put(0x0A, rate)
