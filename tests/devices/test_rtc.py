"""Time and RAM of the clock chip."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rtc_board import BINARY, H24, SET, START, UIP, Board


def test_time_when_read_after_power_on_is_the_hosts_in_bcd_and_24_hours() -> None:
    assert Board().time() == [0x20, 0x26, 0x11, 0x22, 0x23, 0x58, 0x57]


def test_time_when_the_host_goes_on_follows() -> None:
    board = Board()

    board.pass_time(64)

    assert board.time() == [0x20, 0x26, 0x11, 0x23, 0x00, 0x00, 0x01]


@pytest.mark.parametrize(("later", "day"), [(0, 1), (64, 2), (6 * 86400, 7)])
def test_day_of_week_when_read_counts_from_sunday(later: int, day: int) -> None:
    assert Board(START + later).get(6) == day


@pytest.mark.parametrize(
    ("control", "hour", "registers"),
    [
        (H24, 0, 0x00),
        (H24, 13, 0x13),
        (H24 | BINARY, 13, 13),
        (0, 0, 0x12),
        (0, 11, 0x11),
        (0, 12, 0x92),
        (0, 23, 0x91),
        (BINARY, 0, 12),
        (BINARY, 23, 0x80 | 11),
    ],
)
def test_hours_when_read_are_in_the_mode_of_register_b(control: int, hour: int, registers: int) -> None:
    board = Board(START - START % 86400 + 3600 * hour)

    board.put(0x0B, control)

    assert board.get(4) == registers


@given(
    st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31)),
    st.sampled_from([0, H24, BINARY, H24 | BINARY]),
    st.integers(0, 3 * 86400),
)
def test_time_when_set_reads_back_and_goes_on(wanted: datetime.datetime, control: int, later: int) -> None:
    board = Board(START + 0.25)
    board.put(0x0B, control)
    wanted = wanted.replace(microsecond=0)
    try:
        expected = wanted + datetime.timedelta(seconds=later)
    except OverflowError:
        return

    board.set_time(encoded(wanted, control))
    assert board.time() == encoded(wanted, control)
    board.pass_time(later)

    assert board.time() == encoded(expected, control)
    assert board.get(6) == expected.isoweekday() % 7 + 1


def encoded(when: datetime.datetime, control: int) -> list[int]:
    hours, pm = when.hour, 0
    if not control & H24:
        hours, pm = (when.hour + 11) % 12 + 1, 0x80 if when.hour >= 12 else 0
    values = [when.year // 100, when.year % 100, when.month, when.day, hours, when.minute, when.second]
    if not control & BINARY:
        values = [int(str(value), 16) for value in values]
    values[4] |= pm
    return values


def test_time_when_set_under_divider_reset_updates_half_a_second_later() -> None:
    board = Board(START + 0.9)

    board.set_time([0x20, 0x30, 0x01, 0x01, 0x00, 0x00, 0x00])

    board.pass_time(0.49)
    assert board.get(0) == 0x00
    board.pass_time(0.02)
    assert board.get(0) == 0x01


def test_time_when_only_set_is_used_keeps_the_fraction_of_the_second() -> None:
    board = Board(START + 0.75)

    board.put(0x0B, H24 | SET)
    board.put(0, 0x10)
    board.put(0x0B, H24)

    board.pass_time(0.2)
    assert board.get(0) == 0x10
    board.pass_time(0.1)
    assert board.get(0) == 0x11


def test_time_when_set_is_on_stands_still() -> None:
    board = Board()
    board.put(0x0B, H24 | SET)

    board.pass_time(100)

    assert board.time() == [0x20, 0x26, 0x11, 0x22, 0x23, 0x58, 0x57]


def test_time_when_one_register_is_written_while_running_changes_it_alone() -> None:
    board = Board()

    board.put(9, 0x31)

    assert board.time() == [0x20, 0x31, 0x11, 0x22, 0x23, 0x58, 0x57]


@pytest.mark.parametrize(("fraction", "uip"), [(0.0, 0), (0.5, 0), (0.9975, 0), (0.998, UIP), (0.9999, UIP)])
def test_uip_when_an_update_is_near_is_set(fraction: float, uip: int) -> None:
    assert Board(START + fraction).get(0x0A) & UIP == uip


def test_uip_when_polled_as_linux_does_clears_within_three_milliseconds() -> None:
    board = Board(START + 0.998)

    polls = 0
    while board.get(0x0A) & UIP:
        board.pass_time(0.001)  # Linux's mdelay(1)
        polls += 1

    assert 1 <= polls <= 3
    assert board.get(0) == 0x58


@pytest.mark.parametrize(("index", "value"), [(0x0B, H24 | SET), (0x0A, 0x76)])
def test_uip_when_the_time_is_halted_stays_clear(index: int, value: int) -> None:
    board = Board(START + 0.999)

    board.put(index, value)

    assert board.get(0x0A) & UIP == 0


def test_uip_when_written_is_not_stored() -> None:
    board = Board()

    board.put(0x0A, 0xA6)

    assert board.get(0x0A) == 0x26


def test_register_d_when_read_says_the_battery_is_good_whatever_was_written() -> None:
    board = Board()

    board.put(0x0D, 0x00)

    assert board.get(0x0D) == 0x80


@pytest.mark.parametrize("index", [0x0E, 0x0F, 0x10, 0x31, 0x33, 0x7F])
def test_ram_when_written_reads_back(index: int) -> None:
    board = Board()

    board.put(index, 0xA5)

    assert board.get(index) == 0xA5


def test_index_when_bit_7_is_set_means_the_same_register() -> None:
    board = Board()

    board.put(0x80 | 0x20, 0x5A)

    assert board.get(0x20) == 0x5A


def test_index_when_read_is_all_ones() -> None:
    assert Board().rtc.read(0, 1) == 0xFF


def test_ports_when_accessed_as_a_word_do_both_at_once() -> None:
    board = Board()

    board.rtc.write(0, 2, 0xC300 | 0x40)

    assert board.get(0x40) == 0xC3
    assert board.rtc.read(0, 2) == 0xC3FF


@pytest.mark.parametrize(
    ("below", "above", "extended", "above_16m", "above_4g"),
    [
        (1 << 20, 0, 0, 0, 0),
        (16 << 20, 0, 15 * 1024, 0, 0),
        (64 << 20, 0, 63 * 1024, 48 * 16, 0),
        (3 << 30, 3 << 29, 0xFFFF, (3 << 30) - (16 << 20) >> 16, 3 << 13),
        (3 << 30, 1 << 50, 0xFFFF, (3 << 30) - (16 << 20) >> 16, 0xFFFFFF),
    ],
)
def test_ram_when_read_tells_the_memory_size(
    below: int, above: int, extended: int, above_16m: int, above_4g: int
) -> None:
    board = Board(below_4g=below, above_4g=above)

    def number(index: int, size: int) -> int:
        return sum(board.get(index + i) << 8 * i for i in range(size))

    assert number(0x15, 2) == 640
    assert number(0x17, 2) == number(0x30, 2) == extended
    assert number(0x34, 2) == above_16m
    assert number(0x5B, 3) == above_4g


def test_ram_when_summed_has_the_firmware_checksum() -> None:
    board = Board()

    total = sum(board.get(index) for index in range(0x10, 0x2E))

    assert board.get(0x2E) << 8 | board.get(0x2F) == total


@given(st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), max_size=30))
def test_registers_when_anything_is_written_stay_readable(writes: list[tuple[int, int]]) -> None:
    board = Board(START + 0.3)

    for index, value in writes:
        board.put(index, value)
        board.pass_time(0.4)

    assert all(0 <= board.get(index) <= 0xFF for index in range(128))


def test_load_when_given_what_save_gave_has_the_guests_time_and_ram() -> None:
    board, other = Board(START + 0.25), Board(START + 1000)
    board.set_time([0x20, 0x30, 0x01, 0x01, 0x00, 0x00, 0x00])
    board.put(0x40, 0x99)

    other.rtc.load(board.rtc.save())

    board.pass_time(1000)
    assert other.get(0x40) == 0x99
    assert other.time() == board.time()


def test_load_when_the_time_was_halted_finds_it_halted() -> None:
    board, other = Board(), Board(START + 1000)
    board.put(0x0B, H24 | SET)
    board.put(0, 0x33)

    other.rtc.load(board.rtc.save())

    assert other.get(0) == 0x33


@pytest.mark.parametrize(
    ("change", "error"),
    [({"ram": [0] * 127}, ValueError), ({"ram": 5}, TypeError), ({"delta": "x"}, TypeError)],
)
def test_load_when_malformed_raises_and_changes_nothing(
    change: dict[str, object], error: type[Exception]
) -> None:
    board = Board()
    before = board.rtc.save()

    with pytest.raises(error):
        board.rtc.load({**before, **change})

    assert board.rtc.save() == before
