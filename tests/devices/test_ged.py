"""The event register and its interrupt."""

from __future__ import annotations

import threading

import pytest

from pyvmm.board.device import Line
from pyvmm.devices.ged import EVENTS, POWER_BUTTON, Ged


class Wire(Line):
    def __init__(self) -> None:
        self.levels: list[bool] = []

    def set(self, level: bool) -> None:
        self.levels.append(level)


class Looking(Line):
    """A guest so quick that it reads the register inside the interrupt."""

    ged: Ged

    def __init__(self) -> None:
        self.seen: list[int] = []

    def pulse(self) -> None:
        self.seen.append(self.ged.read(EVENTS, 4))


def test_power_button_when_pressed_sets_its_bit_and_pulses_the_line() -> None:
    wire = Wire()
    ged = Ged(wire)

    ged.power_button()

    assert wire.levels == [True, False]
    assert ged.read(EVENTS, 4) == POWER_BUTTON == 1


def test_power_button_when_the_guest_reads_at_once_is_there_already() -> None:
    line = Looking()
    line.ged = Ged(line)

    line.ged.power_button()

    assert line.seen == [POWER_BUTTON]


def test_read_when_made_twice_finds_the_event_once() -> None:
    ged = Ged(Wire())
    ged.power_button()
    ged.power_button()

    assert [ged.read(EVENTS, 4), ged.read(EVENTS, 4)] == [POWER_BUTTON, 0]


def test_read_when_narrow_clears_only_the_bytes_read() -> None:
    ged = Ged(Wire())
    ged.power_button()

    assert ged.read(EVENTS + 1, 1) == 0
    assert ged.read(EVENTS + 2, 2) == 0
    assert ged.read(EVENTS, 1) == POWER_BUTTON
    assert ged.read(EVENTS, 4) == 0


def test_write_when_made_changes_nothing() -> None:
    ged = Ged(Wire())
    ged.power_button()

    ged.write(EVENTS, 4, 0xFFFFFFFF)

    assert ged.read(EVENTS, 4) == POWER_BUTTON


def test_power_button_when_pressed_from_many_threads_loses_no_interrupt() -> None:
    wire = Wire()
    ged = Ged(wire)
    threads = [threading.Thread(target=ged.power_button) for _ in range(16)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wire.levels.count(True) == 16
    assert ged.read(EVENTS, 4) == POWER_BUTTON


def test_load_when_given_what_save_gave_has_the_event_and_no_new_interrupt() -> None:
    ged, wire = Ged(Wire()), Wire()
    ged.power_button()
    other = Ged(wire)

    other.load(ged.save())

    assert other.read(EVENTS, 4) == POWER_BUTTON
    assert wire.levels == []


def test_load_when_the_field_has_the_wrong_type_raises_type_error() -> None:
    with pytest.raises(TypeError, match="generic event device"):
        Ged(Wire()).load({"version": 1, "events": None})


def test_reset_when_called_forgets_the_event() -> None:
    ged = Ged(Wire())
    ged.power_button()

    ged.reset()

    assert ged.read(EVENTS, 4) == 0
