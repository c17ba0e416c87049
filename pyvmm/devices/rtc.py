"""The MC146818 real-time clock with 128 bytes of CMOS RAM, as a PC has it at ports 0x70 and 0x71.

After Motorola's MC146818 data sheet; the RAM's layout is the customary one of PC firmware, with
the bytes for memory size that Bochs and QEMU give theirs. What drivers rely on is in Linux's
``drivers/rtc/rtc-mc146818-lib.c`` and ``rtc-cmos.c``.

- The time is the host's, in UTC, plus what the guest set; the day of the week follows the date. It goes on
  while the machine is paused; the periodic interrupt, which counts the machine's time, does not.
- Flags of register C are computed when they are read. A timer runs only while an interrupt is
  enabled and none is asserted: as on the chip, the line stays up until register C is read, so a guest
  gets no more interrupts than it acknowledges.
- The bits for daylight saving and the square wave have no effect; every divider setting but "reset" is
  that of a 32 kHz crystal.
"""

from __future__ import annotations

import time
from _thread import allocate_lock

from pyvmm.board.device import Device, Level, Line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.board.timers import Cancellable, Timers

# Offsets in the window.
INDEX = 0
DATA = 1
#: Bytes of the window.
SIZE = 2

# Registers and CMOS RAM, by index.
SECONDS = 0x00
SECONDS_ALARM = 0x01
MINUTES = 0x02
MINUTES_ALARM = 0x03
HOURS = 0x04
HOURS_ALARM = 0x05
DAY_OF_WEEK = 0x06  # 1 is Sunday
DAY_OF_MONTH = 0x07
MONTH = 0x08
YEAR = 0x09
REG_A = 0x0A
REG_B = 0x0B
REG_C = 0x0C
REG_D = 0x0D
EQUIPMENT = 0x14
BASE_MEMORY = 0x15  # KiB, two bytes
EXTENDED_MEMORY = 0x17  # KiB from 1 MiB on, two bytes
CHECKSUM = 0x2E  # of 0x10-0x2d; high byte first
EXTENDED_MEMORY_FOUND = 0x30  # as EXTENDED_MEMORY
CENTURY = 0x32
MEMORY_ABOVE_16M = 0x34  # 64 KiB units below 4 GiB, two bytes
MEMORY_ABOVE_4G = 0x5B  # 64 KiB units, three bytes
RAM_SIZE = 0x80

A_UIP = 0x80
A_DIVIDER_RESET = 0x60  # both bits set: the divider chain is held in reset
A_RATE = 0x0F
B_SET = 0x80
B_PIE = 0x40
B_AIE = 0x20
B_UIE = 0x10
B_SQWE = 0x08
B_BINARY = 0x04
B_24H = 0x02
C_IRQF = 0x80
C_PF = 0x40
C_AF = 0x20
C_UF = 0x10
D_VRT = 0x80
_ENABLES = B_PIE | B_AIE | B_UIE

ALARM_ANY = 0xC0  # from here on an alarm register matches everything
_PM = 0x80
_FPU = 0x02
_TIME = (SECONDS, MINUTES, HOURS, DAY_OF_WEEK, DAY_OF_MONTH, MONTH, YEAR, CENTURY)
_ALARM = (SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM)

#: UIP rises 244 us before an update, which takes 1984 us (data sheet, table 6 for 32.768 kHz).
UPDATE_SECONDS = 0.000244 + 0.001984
_DAY = 86400
_MONTH_STARTS = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
_EPOCH_DAY = 719162  # days from 1 January of year 1 to 1 January 1970


class Mc146818(Device):
    """The clock, its alarm, its RAM and its interrupt.

    One lock covers the state: vCPU threads come through ``read`` and ``write``, the timer in the
    loop's thread.

    :param timers: the machine's time, for the periodic interrupt, and its timers
    :param below_4g: bytes of guest RAM below 4 GiB, told to firmware
    :param above_4g: bytes of guest RAM from 4 GiB on
    :param clock: seconds since the epoch, UTC
    """

    name = "MC146818 real-time clock"

    def __init__(
        self,
        timers: Timers,
        line: Line,
        below_4g: int,
        above_4g: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._timers = timers
        self._line = Level(line)
        self._clock = clock
        self._lock = allocate_lock()
        self._index = 0
        # Always has the alarm and registers A, B and D; the time only while it is halted.
        self._ram = bytearray(RAM_SIZE)
        self._ram[REG_A] = 0x26  # 32.768 kHz, 1024 Hz
        self._ram[REG_B] = B_24H
        self._ram[REG_D] = D_VRT
        self._describe_memory(below_4g, above_4g)
        self._flags = 0
        self._delta = 0.0  # the guest's time is the host's plus this
        self._since = clock()  # _flags has the updates and alarms up to here
        self._ticked = timers.clock()  # _flags has the periodic events up to here
        self._timer: Cancellable | None = None

    def _describe_memory(self, below_4g: int, above_4g: int) -> None:
        extended = min(max(below_4g - (1 << 20), 0) >> 10, 0xFFFF)
        above_16m = min(max(below_4g - (16 << 20), 0) >> 16, 0xFFFF)
        ram = self._ram
        ram[EQUIPMENT] = _FPU
        ram[BASE_MEMORY : BASE_MEMORY + 2] = (640).to_bytes(2, "little")
        ram[EXTENDED_MEMORY : EXTENDED_MEMORY + 2] = extended.to_bytes(2, "little")
        ram[EXTENDED_MEMORY_FOUND : EXTENDED_MEMORY_FOUND + 2] = extended.to_bytes(2, "little")
        ram[MEMORY_ABOVE_16M : MEMORY_ABOVE_16M + 2] = above_16m.to_bytes(2, "little")
        ram[MEMORY_ABOVE_4G : MEMORY_ABOVE_4G + 3] = min(above_4g >> 16, 0xFFFFFF).to_bytes(3, "little")
        ram[CHECKSUM : CHECKSUM + 2] = sum(ram[0x10:CHECKSUM]).to_bytes(2, "big")

    def read(self, offset: int, size: int) -> int:
        """The register chosen by the index; the index itself reads as all ones, as on a PC."""
        if offset == DATA:
            return self._read_register()
        return 0xFF if size == 1 else 0xFF | self._read_register() << 8

    def write(self, offset: int, size: int, value: int) -> None:
        """Choose a register (bit 7, the PC's NMI mask, has no effect), write it, or both at once."""
        if offset == INDEX:
            self._index = value & 0x7F
            if size == 1:
                return
            value >>= 8
        self._write_register(value)

    def reset(self) -> None:
        """As the chip's RESET pin: interrupts off. Time and RAM are battery-backed."""
        with self._lock:
            self._ram[REG_B] &= ~(_ENABLES | B_SQWE)
            self._index = 0
            self._advance()
            self._flags = 0
            self._update()

    def resume(self) -> None:
        """Raise the updates and alarms of the pause, once each: the time is the host's and went on."""
        with self._lock:
            self._advance()
            self._update()

    def close(self) -> None:
        """Cancel the timer; no other is started."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def save(self) -> dict[str, object]:
        """Registers, RAM, and how far the guest's time is from the host's."""
        with self._lock:
            self._advance()
            return {
                "version": 1,
                "index": self._index,
                "ram": list(self._ram),
                "flags": self._flags,
                "delta": self._delta,
            }

    def load(self, state: dict[str, object]) -> None:
        """Restore what ``save`` returned; events since then are lost, the time is the host's.

        Raises KeyError, TypeError or ValueError for anything else.
        """
        index, ram, flags, delta = state["index"], state["ram"], state["flags"], state["delta"]
        if not (
            isinstance(index, int)
            and isinstance(ram, list)
            and isinstance(flags, int)
            and isinstance(delta, float)
        ):
            raise TypeError("the saved state of the real-time clock has fields of the wrong type")
        memory = bytearray(ram)
        if len(memory) != RAM_SIZE:
            raise ValueError(
                f"the saved state of the real-time clock has {len(memory)} bytes, not {RAM_SIZE}"
            )
        with self._lock:
            self._index, self._ram, self._flags, self._delta = index & 0x7F, memory, flags & _ENABLES, delta
            self._since, self._ticked = self._clock(), self._timers.clock()
            self._update()

    def _read_register(self) -> int:
        with self._lock:
            index = self._index
            if index in _TIME and not self._halted():
                self._latch(self._clock())
            elif index == REG_A:
                return self._ram[REG_A] | (A_UIP if self._updating() else 0)
            elif index == REG_C:
                self._advance()
                flags = self._flags | (C_IRQF if self._line.level else 0)
                self._flags = 0
                self._update()
                return flags
            return self._ram[index]

    def _write_register(self, value: int) -> None:
        with self._lock:
            index = self._index
            if index in _TIME:
                self._set_time(index, value)
            elif index in (REG_A, REG_B):
                self._set_control(index, value)
            elif index in _ALARM:
                self._advance()
                self._ram[index] = value
            elif index not in (REG_C, REG_D):
                self._ram[index] = value
                return
            self._update()

    # The methods below are called under the lock.

    def _halted(self) -> bool:
        """Whether the time does not advance: the guest is setting it."""
        return bool(self._ram[REG_B] & B_SET) or self._divider_reset()

    def _divider_reset(self) -> bool:
        return self._ram[REG_A] & A_DIVIDER_RESET == A_DIVIDER_RESET

    def _updating(self) -> bool:
        return not self._halted() and (self._clock() + self._delta) % 1 >= 1 - UPDATE_SECONDS

    def _set_time(self, index: int, value: int) -> None:
        if self._halted():
            self._ram[index] = value
            return
        self._advance()
        self._latch(self._since)
        self._ram[index] = value
        self._run(self._since, (self._since + self._delta) % 1)

    def _set_control(self, index: int, value: int) -> None:
        self._advance()
        now = self._since
        halted, divider_reset = self._halted(), self._divider_reset()
        if not halted:
            self._latch(now)
        if index == REG_A:
            value &= ~A_UIP
        elif value & B_SET:
            value &= ~B_UIE
        self._ram[index] = value
        if halted and not self._halted():
            # The first update comes half a second after the divider chain leaves reset.
            self._run(now, 0.5 if divider_reset else (now + self._delta) % 1)

    def _latch(self, now: float) -> None:
        """Write the guest's time into the registers."""
        year, month, day, hours, minutes, seconds, weekday = time.gmtime(int((now + self._delta) // 1))[:7]
        for index, value in (
            (SECONDS, seconds),
            (MINUTES, minutes),
            (DAY_OF_WEEK, (weekday + 1) % 7 + 1),
            (DAY_OF_MONTH, day),
            (MONTH, month),
            (YEAR, year % 100),
            (CENTURY, year // 100 % 100),
        ):
            self._ram[index] = self._encode(value)
        self._ram[HOURS] = self._encode_hours(hours)

    def _run(self, now: float, fraction: float) -> None:
        """Continue from the time in the registers, *fraction* of a second after its last update."""
        decode = self._decode
        ram = self._ram
        hours = ram[HOURS]
        if ram[REG_B] & B_24H:
            hours = decode(hours)
        else:
            hours = decode(hours & ~_PM) % 12 + (12 if hours & _PM else 0)
        months = (decode(ram[CENTURY]) * 100 + decode(ram[YEAR])) * 12 + decode(ram[MONTH]) - 1
        days = _days(months // 12, months % 12, decode(ram[DAY_OF_MONTH]))
        seconds = (days * 24 + hours) * 3600 + decode(ram[MINUTES]) * 60 + decode(ram[SECONDS])
        self._delta = seconds + fraction - now

    def _encode(self, value: int) -> int:
        return value if self._ram[REG_B] & B_BINARY else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self._ram[REG_B] & B_BINARY else (value >> 4) * 10 + (value & 0xF)

    def _encode_hours(self, hours: int) -> int:
        if self._ram[REG_B] & B_24H:
            return self._encode(hours)
        return self._encode((hours - 1) % 12 + 1) | (_PM if hours >= 12 else 0)

    def _period(self) -> float:
        """Seconds between periodic interrupts; 0 for none (data sheet, table 5)."""
        rate = self._ram[REG_A] & A_RATE
        if not rate or self._divider_reset():
            return 0.0
        return (1 << (rate - 1 if rate > 2 else rate + 6)) / 32768

    def _advance(self) -> None:
        """Set the flags of the events since the last call."""
        period = self._period()
        ticked, self._ticked = self._ticked, self._timers.clock()
        if period and self._ticked // period > ticked // period:
            self._flags |= C_PF
        last, self._since = self._since, self._clock()
        now = self._since
        if now <= last or self._halted():  # the host's clock was set back, or the guest is setting the time
            return
        before, after = int((last + self._delta) // 1), int((now + self._delta) // 1)
        if after > before:
            self._flags |= C_UF
            alarm = self._next_alarm(before)
            if alarm is not None and alarm <= after:
                self._flags |= C_AF

    def _next_alarm(self, after: int) -> int | None:
        """The first second behind *after* that the alarm registers match; None if they match none."""
        ram = self._ram
        seconds = _matches(ram[SECONDS_ALARM], 60, self._encode)
        minutes = _matches(ram[MINUTES_ALARM], 60, self._encode)
        hours = _matches(ram[HOURS_ALARM], 24, self._encode_hours)
        if not (seconds and minutes and hours):
            return None
        days, rest = divmod(after + 1, _DAY)
        hour, minute, second = rest // 3600, rest // 60 % 60, rest % 60
        if hour in hours and minute in minutes and second <= seconds[-1]:
            second = _at_least(seconds, second)
        elif hour in hours and minute < minutes[-1]:
            minute, second = _at_least(minutes, minute + 1), seconds[0]
        else:
            if hour >= hours[-1]:
                days, hour = days + 1, -1
            hour, minute, second = _at_least(hours, hour + 1), minutes[0], seconds[0]
        return days * _DAY + hour * 3600 + minute * 60 + second

    def _update(self) -> None:
        """Set the line by flags and enable bits; start a timer for the next event if it is low."""
        enabled = self._ram[REG_B] & _ENABLES
        level = bool(self._flags & enabled)
        self._line.set(level)
        self.close()
        if enabled and not level:
            seconds = self._seconds_to_event(enabled)
            if seconds is not None:
                self._timer = self._timers.call_later(seconds, self._timer_fired)

    def _seconds_to_event(self, enabled: int) -> float | None:
        due = []
        period = self._period()
        if enabled & B_PIE and period:
            due.append(period - self._ticked % period)
        if not self._halted():
            guest = self._since + self._delta
            if enabled & B_UIE:
                due.append(1 - guest % 1)
            if enabled & B_AIE:
                alarm = self._next_alarm(int(guest // 1))
                if alarm is not None:
                    due.append(alarm - guest)
        return min(due) if due else None

    def _timer_fired(self) -> None:
        """In the loop's thread; takes the lock. It may be early: the host's date is another clock."""
        with self._lock:
            self._advance()
            self._update()


def _matches(alarm: int, limit: int, encode: Callable[[int], int]) -> list[int]:
    """The values below *limit* that an alarm register matches."""
    if alarm >= ALARM_ANY:
        return list(range(limit))
    return [value for value in range(limit) if encode(value) == alarm]


def _at_least(values: list[int], value: int) -> int:
    """The first of the sorted *values* that is *value* or more; there is one."""
    return next(candidate for candidate in values if candidate >= value)


def _days(year: int, month: int, day: int) -> int:
    """Days from the epoch to *day* (from 1, any number) of *month* (0-11), Gregorian calendar."""
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    before = (year - 1) * 365 + (year - 1) // 4 - (year - 1) // 100 + (year - 1) // 400
    return before + _MONTH_STARTS[month] + (1 if leap and month > 1 else 0) + day - 1 - _EPOCH_DAY
