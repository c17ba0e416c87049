"""The PL031: time, setting it, and the alarm."""

from __future__ import annotations

import pytest

from pyvmm.devices.pl031 import CR, DR, ICR, IMSC, LR, MIS, MR, RIS, Pl031
from tests.support.pl_parts import Clock, Wire


class Rtc(Pl031):
    def __init__(self, now: float = 1000.5) -> None:
        self.clock, self.wire = Clock(now), Wire()
        super().__init__(self.clock, self.wire, self.clock)  # type: ignore[arg-type]

    def __getitem__(self, offset: int) -> int:
        return self.read(offset, 4)

    def __setitem__(self, offset: int, value: int) -> None:
        self.write(offset, 4, value)


def test_time_is_the_hosts_until_the_guest_sets_it() -> None:
    rtc = Rtc()
    assert (rtc[DR], rtc[CR]) == (1000, 1)

    rtc[LR] = 5000
    rtc.clock.move(10)

    assert (rtc[DR], rtc[LR]) == (5010, 5000)


def test_time_when_set_back_wraps_in_32_bits() -> None:
    rtc = Rtc()
    rtc[LR] = 0xFFFF_FFFF

    rtc.clock.move(1)

    assert rtc[DR] == 0


def test_identification_names_a_pl031() -> None:
    assert [Rtc()[0xFE0 + 4 * i] for i in range(8)] == [0x31, 0x10, 0x04, 0, 0x0D, 0xF0, 0x05, 0xB1]


def test_alarm_when_its_second_comes_raises_the_line_until_cleared() -> None:
    rtc = Rtc()
    rtc[MR], rtc[IMSC] = 1003, 1

    rtc.clock.move(2.4)
    assert (rtc.wire.level, rtc[RIS]) == (False, 0)
    rtc.clock.move(0.2)
    assert (rtc.wire.level, rtc[MIS]) == (True, 1)

    rtc[ICR] = 1
    rtc.clock.move(0.1)
    assert (rtc.wire.level, rtc[RIS]) == (False, 0)


def test_alarm_when_nobody_wants_it_costs_no_timer() -> None:
    rtc = Rtc()
    rtc[MR] = 1003

    assert rtc.clock.timers == []


def test_alarm_when_the_host_clock_was_set_back_waits_for_its_second() -> None:
    rtc = Rtc()
    rtc[MR], rtc[IMSC] = 1003, 1

    (timer,) = rtc.clock.timers
    rtc.clock.timers.clear()
    timer.function()  # the loop's clock is another: it may come early

    assert not rtc.wire.level
    assert len(rtc.clock.timers) == 1


def test_close_when_an_alarm_is_set_lets_go_of_its_timer() -> None:
    rtc = Rtc()
    rtc[MR], rtc[IMSC] = 1003, 1

    rtc.close()

    assert rtc.clock.timers == []


def test_load_when_given_what_save_gave_has_time_and_alarm() -> None:
    rtc = Rtc()
    rtc[LR], rtc[MR], rtc[IMSC] = 5000, 5002, 1
    other = Rtc()

    other.load(rtc.save())
    other.clock.move(1.6)

    assert (other[DR], other.wire.level) == (5002, True)


def test_load_when_given_something_else_raises() -> None:
    with pytest.raises(TypeError, match="PL031"):
        Rtc().load({"registers": "no"})


def test_reset_when_an_alarm_is_pending_takes_the_line_down() -> None:
    rtc = Rtc()
    rtc[MR], rtc[IMSC] = 1001, 1
    rtc.clock.move(1)
    assert rtc.wire.level

    rtc.reset()

    assert (rtc.wire.level, rtc[MR], rtc[DR]) == (False, 0, 1001)


def test_alarm_when_its_second_passed_in_a_pause_is_raised_when_the_machine_goes_on() -> None:
    rtc = Rtc()
    rtc[MR], rtc[IMSC] = 1003, 1

    rtc.clock.now += 1000  # the timer, whose clock stands still, is not called
    assert not rtc.wire.level
    rtc.resume()

    assert (rtc.wire.level, rtc[RIS]) == (True, 1)


@pytest.mark.parametrize("seconds", [0, 1, -500])
def test_alarm_when_it_is_still_to_come_after_a_pause_is_awaited(seconds: int) -> None:
    rtc = Rtc()
    rtc[MR], rtc[IMSC] = 1003, 1

    rtc.clock.now += seconds
    rtc.resume()
    assert not rtc.wire.level
    rtc.clock.move(3 - seconds)

    assert rtc.wire.level


def test_alarm_when_acknowledged_is_not_raised_again_by_a_pause() -> None:
    rtc = Rtc()
    rtc[MR], rtc[IMSC] = 1003, 1
    rtc.clock.move(2.6)
    rtc[ICR] = 1

    rtc.resume()
    rtc.clock.now += 1000
    rtc.resume()

    assert (rtc.wire.level, rtc[RIS]) == (False, 0)
