"""Flags of register C, the line, and the timer that drives it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.board.device import Line
from pyvmm.devices.rtc import Mc146818
from pyvmm.loop import Loop
from tests.support.rtc_board import AF, AIE, BINARY, H24, IRQF, PF, PIE, SET, START, UF, UIE, Board


def quiet(now: float = START) -> Board:
    """No periodic rate, an alarm that is far, flags read away."""
    board = Board(now)
    board.put(0x0A, 0x20)
    for index, value in ((5, 0x12), (3, 0x00), (1, 0x00)):
        board.put(index, value)
    board.get(0x0C)
    return board


def test_flags_when_a_second_passes_show_the_update_once_and_no_interrupt() -> None:
    board = quiet()

    board.pass_time(1.5)

    assert board.get(0x0C) == UF
    assert board.get(0x0C) == 0
    assert board.wire.rises == 0
    assert not board.waiting


def test_update_interrupt_when_enabled_comes_with_the_second() -> None:
    board = quiet(START + 0.25)

    board.put(0x0B, H24 | UIE)
    board.pass_time(0.7)
    assert not board.wire.level
    board.pass_time(0.1)

    assert board.wire.level
    assert board.get(0x0C) == IRQF | UF
    assert not board.wire.level


def test_line_when_nobody_reads_register_c_stays_up_without_timers() -> None:
    board = quiet()
    board.put(0x0B, H24 | UIE)

    board.pass_time(100)

    assert board.wire.level
    assert board.wire.rises == 1
    assert not board.waiting


def test_update_interrupt_when_acknowledged_each_time_comes_every_second() -> None:
    board = quiet()
    board.put(0x0B, H24 | UIE)

    for _ in range(5):
        board.pass_time(1)
        assert board.get(0x0C) & UF

    assert board.wire.rises == 5


@pytest.mark.parametrize(
    ("rate", "hertz"), [(1, 256), (2, 128), (3, 8192), (6, 1024), (13, 8), (14, 4), (15, 2)]
)
def test_periodic_interrupt_when_enabled_has_the_chosen_rate(rate: int, hertz: int) -> None:
    board = quiet()
    board.put(0x0A, 0x20 | rate)
    board.put(0x0B, H24 | PIE)

    counted = 0
    for _ in range(2 * hertz):
        board.pass_time(1 / hertz)
        counted += board.get(0x0C) & PF == PF

    # A step may fall a hair before or behind the edge; none is lost for good.
    assert 2 * hertz - 2 <= counted <= 2 * hertz


def test_periodic_interrupt_when_the_rate_is_none_never_comes() -> None:
    board = quiet()

    board.put(0x0B, H24 | PIE)
    board.pass_time(100)

    assert board.get(0x0C) & PF == 0
    assert not board.wire.level


def test_periodic_interrupt_when_the_divider_is_held_in_reset_never_comes() -> None:
    board = quiet()
    board.put(0x0A, 0x76)

    board.put(0x0B, H24 | PIE)
    board.pass_time(10)

    assert not board.wire.level


def test_alarm_when_its_time_comes_interrupts() -> None:
    board = quiet()
    for index, value in ((5, 0x00), (3, 0x01), (1, 0x30)):  # 00:01:30, 153 s away
        board.put(index, value)
    board.put(0x0B, H24 | AIE)

    board.pass_time(152.9)
    assert not board.wire.level
    board.pass_time(0.2)

    assert board.wire.level
    assert board.get(0x0C) == IRQF | AF | UF


def test_alarm_when_not_enabled_shows_in_the_flags() -> None:
    board = quiet()
    board.put(1, 0x59)
    board.put(3, 0xC0)
    board.put(5, 0xFF)

    board.pass_time(1.5)
    assert board.get(0x0C) & AF == 0
    board.pass_time(1)

    assert board.get(0x0C) & AF == AF


def test_alarm_when_no_time_matches_waits_for_nothing() -> None:
    board = quiet()
    board.put(3, 0x7F)

    board.put(0x0B, H24 | AIE)

    assert not board.waiting


def test_alarm_when_the_time_is_set_past_it_waits_for_the_next_day() -> None:
    board = quiet()
    board.put(0x0B, H24 | AIE)

    board.set_time([0x20, 0x26, 0x11, 0x22, 0x12, 0x00, 0x01])

    (call,) = board.waiting
    assert call.when - board.now == pytest.approx(86400 - 1.5)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 86399),
    st.one_of(st.integers(0, 23), st.just(0xC0)),
    st.one_of(st.integers(0, 59), st.just(0xFF)),
    st.one_of(st.integers(0, 59), st.just(0xD7)),
    st.booleans(),
)
def test_alarm_when_compared_with_a_search_second_by_second_is_the_same(
    start: int, hour: int, minute: int, second: int, half_days: bool
) -> None:
    board = Board(START - START % 86400 + start)
    board.put(0x0B, BINARY | (0 if half_days else H24))
    register = hour
    if half_days and hour < 24:
        register = (hour + 11) % 12 + 1 | (0x80 if hour >= 12 else 0)
    for index, value in ((5, register), (3, minute), (1, second)):
        board.put(index, value)

    board.put(0x0B, BINARY | AIE | (0 if half_days else H24))

    fields = ((hour, 24, 3600), (minute, 60, 60), (second, 60, 1))
    due = next(
        after
        for after in range(1, 86401)
        if all(want >= limit or (start + after) // unit % limit == want for want, limit, unit in fields)
    )
    (call,) = board.waiting
    assert call.when - board.now == due


def test_set_when_written_takes_the_update_interrupt_away() -> None:
    board = quiet()
    board.put(0x0B, H24 | UIE)

    board.put(0x0B, H24 | UIE | SET)

    assert board.get(0x0B) == H24 | SET
    assert not board.waiting


def test_flag_when_it_is_there_before_its_enable_interrupts_at_once() -> None:
    board = quiet()
    board.pass_time(1.5)

    board.put(0x0B, H24 | UIE)

    assert board.wire.level


def test_enable_when_taken_away_lowers_the_line() -> None:
    board = quiet()
    board.put(0x0B, H24 | UIE)
    board.pass_time(1)

    board.put(0x0B, H24)

    assert not board.wire.level
    assert board.get(0x0C) == UF


def test_timer_when_early_waits_for_the_rest() -> None:
    board = quiet(START + 0.5)
    board.put(0x0B, H24 | UIE)
    (call,) = board.waiting

    board.now += 0.4
    call.active = False
    call.function()

    assert not board.wire.level
    (call,) = board.waiting
    assert call.when == pytest.approx(START + 1)


def test_timer_when_it_fires_while_another_was_set_leaves_one() -> None:
    """The loop's thread may have taken the timer that a vCPU cancels at the same moment."""
    board = quiet()
    board.put(0x0B, H24 | UIE)
    (late,) = board.waiting
    board.put(0x0B, H24 | UIE)

    late.function()

    assert len(board.waiting) == 1


def test_timer_when_the_loop_is_a_real_one_drives_the_line() -> None:
    class Stops(Line):
        level = False

        def set(self, level: bool) -> None:
            self.level = level
            loop.stop()

    with Loop() as loop:
        wire = Stops()
        rtc = Mc146818(loop, wire, 1 << 30, 0)
        watchdog = loop.call_later(20, loop.stop)
        rtc.write(0, 2, (H24 | PIE) << 8 | 0x0B)
        loop.run()
        watchdog.cancel()

    assert wire.level


def test_clock_when_the_host_sets_it_back_keeps_the_interrupt_coming() -> None:
    board = quiet()
    board.put(0x0B, H24 | UIE)
    (call,) = board.waiting

    board.now -= 3600
    call.active = False
    call.function()
    assert not board.wire.level
    board.pass_time(1)

    assert board.wire.level


def test_periodic_interrupt_when_the_machine_was_paused_has_what_was_left_of_its_period() -> None:
    board = quiet()
    board.put(0x0A, 0x2F)  # two a second
    board.pass_time(0.5)
    board.get(0x0C)
    board.put(0x0B, H24 | PIE)
    board.pass_time(0.3)

    board.pause(1000.1)
    assert not board.wire.level
    board.pass_time(0.19)
    assert not board.wire.level
    board.pass_time(0.02)

    assert board.wire.level
    assert board.get(0x0C) & PF


def test_update_interrupt_when_the_machine_was_paused_comes_once_for_all_seconds_missed() -> None:
    board = quiet()
    board.put(0x0B, H24 | UIE)

    board.pause(1000.5)

    assert (board.wire.rises, board.get(0x0C)) == (1, IRQF | UF)
    assert not board.wire.level


def test_alarm_when_its_time_came_during_a_pause_is_raised_at_the_end_of_it() -> None:
    board = quiet()
    for index, value in ((5, 0x23), (3, 0x59), (1, 0x30)):  # 33 seconds ahead
        board.put(index, value)
    board.put(0x0B, H24 | AIE)

    board.pause(100)

    assert board.get(0x0C) == IRQF | AF | UF


@given(st.lists(st.integers(0, 255), min_size=1, max_size=30))
def test_timers_when_register_b_is_written_again_and_again_are_one(values: list[int]) -> None:
    board = quiet()

    for value in values:
        board.put(0x0B, value)
        assert len(board.waiting) <= 1


def test_load_when_an_interrupt_was_asserted_asserts_it() -> None:
    board, other = quiet(), quiet()
    board.put(0x0B, H24 | UIE)
    board.pass_time(1)

    other.rtc.load(board.rtc.save())

    assert other.wire.level
    assert other.get(0x0C) & (IRQF | UF) == IRQF | UF


def test_reset_when_called_ends_interrupts_and_keeps_the_time() -> None:
    board = quiet()
    board.set_time([0x20, 0x30, 0x01, 0x01, 0x00, 0x00, 0x00])
    board.put(0x0B, H24 | UIE | AIE | PIE)
    board.pass_time(1)

    board.rtc.reset()

    assert not board.wire.level
    assert not board.waiting
    assert board.get(0x0B) == H24
    assert board.time()[:3] == [0x20, 0x30, 0x01]
