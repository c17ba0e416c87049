"""The SP805: counting, the interrupt, the bite, the lock."""

from __future__ import annotations

import pytest

from pyvmm.devices.sp805 import CONTROL, INTCLR, LOAD, LOCK, MIS, RIS, UNLOCK, VALUE, Sp805
from tests.support.pl_parts import Clock, Wire

RESET, INTERRUPT = 2, 1


class Dog(Sp805):
    """Counts a thousand a second."""

    def __init__(self) -> None:
        self.time, self.wire, self.bites = Clock(), Wire(), 0
        super().__init__(self.time, self.bite, self.wire, 1000)

    def bite(self) -> None:
        self.bites += 1

    def __getitem__(self, offset: int) -> int:
        return self.read(offset, 4)

    def __setitem__(self, offset: int, value: int) -> None:
        self.write(offset, 4, value)


def test_counter_when_off_stands_still() -> None:
    dog = Dog()
    dog[LOAD] = 5000

    dog.time.move(100)

    assert (dog[VALUE], dog.time.timers) == (5000, [])


def test_counter_when_on_counts_down_and_interrupts_at_zero() -> None:
    dog = Dog()
    dog[LOAD], dog[CONTROL] = 5000, INTERRUPT

    dog.time.move(2)
    assert (dog[VALUE], dog.wire.level) == (3000, False)
    dog.time.move(3.1)

    assert (dog[RIS], dog[MIS], dog.wire.level, dog.bites) == (1, 1, True, 0)


def test_watchdog_when_it_runs_out_twice_bites_once() -> None:
    dog = Dog()
    dog[LOAD], dog[CONTROL] = 5000, INTERRUPT | RESET

    dog.time.move(9.9)
    assert dog.bites == 0
    dog.time.move(30)

    assert dog.bites == 1


def test_watchdog_when_fed_in_time_never_bites() -> None:
    dog = Dog()
    dog[LOAD], dog[CONTROL] = 5000, INTERRUPT | RESET

    for _ in range(20):
        dog.time.move(4)
        dog[INTCLR] = 1

    assert (dog.bites, dog[RIS], dog[VALUE]) == (0, 0, 5000)


def test_watchdog_without_reset_never_bites_and_costs_no_timer_after_its_interrupt() -> None:
    dog = Dog()
    dog[LOAD], dog[CONTROL] = 1, INTERRUPT

    dog.time.move(1)

    assert (dog.bites, dog.time.timers) == (0, [])


def test_registers_when_locked_keep_their_values() -> None:
    dog = Dog()
    dog[LOAD] = 5000
    dog[LOCK] = 1
    assert dog[LOCK] == 1

    dog[LOAD] = 1
    dog[CONTROL] = 3
    assert (dog[LOAD], dog[CONTROL]) == (5000, 0)
    dog[LOCK] = UNLOCK
    dog[LOAD] = 1
    assert (dog[LOCK], dog[LOAD]) == (0, 1)


def test_identification_names_an_sp805() -> None:
    assert [Dog()[0xFE0 + 4 * i] for i in range(8)] == [0x05, 0x18, 0x14, 0, 0x0D, 0xF0, 0x05, 0xB1]


def test_load_when_given_what_save_gave_goes_on_from_there() -> None:
    dog, other = Dog(), Dog()
    dog[LOAD], dog[CONTROL] = 5000, INTERRUPT | RESET
    dog.time.move(2)

    other.load(dog.save())
    other.time.move(7.9)
    assert other.bites == 0
    other.time.move(0.2)

    assert other.bites == 1


def test_load_when_given_something_else_raises() -> None:
    with pytest.raises(ValueError, match="SP805"):
        Dog().load({"registers": [0, 0, 0, 0, -1]})


def test_close_and_reset_when_it_is_on_let_go_of_the_timer() -> None:
    for end in (Sp805.close, Sp805.reset):
        dog = Dog()
        dog[CONTROL] = INTERRUPT
        end(dog)
        assert dog.time.timers == []
