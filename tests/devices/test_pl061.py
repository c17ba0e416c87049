"""The PL061: masked data accesses, directions, and interrupts by level and edge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.pl061 import DIR, IBE, IC, IE, IEV, IS, MIS, RIS, Pl061
from tests.support.pl_parts import Clock, Wire


class Gpio(Pl061):
    def __init__(self) -> None:
        self.clock, self.wire, self.outputs = Clock(), Wire(), []
        super().__init__(self.clock, self.wire, self.outputs.append)  # type: ignore[arg-type, var-annotated]

    def __getitem__(self, offset: int) -> int:
        return self.read(offset, 4)

    def __setitem__(self, offset: int, value: int) -> None:
        self.write(offset, 4, value)


def test_data_when_read_shows_the_lines_of_the_address() -> None:
    gpio = Gpio()
    gpio.drive(3, True)
    gpio.drive(5, True)

    assert (gpio[0x3FC], gpio[0x08 << 2], gpio[0x20 << 2], gpio[0]) == (0x28, 0x08, 0x20, 0)


def test_data_when_written_drives_the_outputs_of_the_address_only() -> None:
    gpio = Gpio()
    gpio[DIR] = 0x0F

    gpio[0x05 << 2] = 0xFF

    assert (gpio[0x3FC], gpio.outputs) == (0x05, [0x05])


def test_output_when_not_changed_is_not_told() -> None:
    gpio = Gpio()
    gpio[DIR] = 1
    gpio[0x3FC] = 1
    gpio[0x3FC] = 1

    assert gpio.outputs == [1]


def test_identification_names_a_pl061() -> None:
    assert [Gpio()[0xFE0 + 4 * i] for i in range(8)] == [0x61, 0x10, 0x04, 0, 0x0D, 0xF0, 0x05, 0xB1]


@pytest.mark.parametrize(
    ("both", "event", "found"), [(0, 0, [0, 8]), (0, 8, [8, 0]), (8, 0, [8, 8]), (8, 8, [8, 8])]
)
def test_edge_when_it_is_the_wanted_one_interrupts(both: int, event: int, found: list[int]) -> None:
    gpio = Gpio()
    gpio[IBE], gpio[IEV], gpio[IE] = both, event, 8
    seen = []

    for level in (True, False):
        gpio.drive(3, level)
        assert gpio.wire.level == bool(gpio[MIS])
        seen.append(gpio[RIS])
        gpio[IC] = 0xFF

    assert seen == found
    assert not gpio.wire.level


def test_level_when_sensed_interrupts_as_long_as_it_is_there() -> None:
    gpio = Gpio()
    gpio[IS], gpio[IEV], gpio[IE] = 8, 8, 8
    gpio.drive(3, True)

    gpio[IC] = 8
    assert (gpio[MIS], gpio.wire.level) == (8, True)
    gpio.drive(3, False)
    assert (gpio[MIS], gpio.wire.level) == (0, False)


def test_button_when_pressed_goes_down_and_up() -> None:
    gpio = Gpio()
    gpio[IBE], gpio[IE] = 8, 8

    gpio.press(3)
    assert gpio[0x3FC] == 8
    gpio[IC] = 8
    gpio.clock.move(1)

    assert (gpio[0x3FC], gpio[RIS]) == (0, 8)


def test_button_when_pressed_stays_down_until_the_guest_has_looked() -> None:
    gpio = Gpio()
    gpio[IBE], gpio[IE] = 8, 8

    gpio.press(3)
    gpio.clock.move(1)
    assert gpio[RIS] == 8
    gpio[IC] = 8
    gpio.clock.move(1)
    assert (gpio[RIS], gpio[4 << 2]) == (0, 0)  # another line is no look at the button
    gpio.clock.move(1)
    assert gpio[8 << 2] == 8
    gpio.clock.move(1)

    assert (gpio[8 << 2], gpio[RIS]) == (0, 8)


def test_button_when_pressed_again_is_let_go_when_that_was_seen() -> None:
    gpio = Gpio()
    gpio.press(3)
    assert gpio[0x3FC] == 8
    gpio.clock.move(0.05)
    assert gpio[0x3FC] == 8  # not long enough yet for a driver that lets it settle
    gpio.press(3)
    gpio.clock.move(1)
    assert gpio[0x3FC] == 8
    gpio.clock.move(1)

    assert gpio[0x3FC] == 0


def test_button_when_nobody_looks_is_let_go_after_some_seconds() -> None:
    gpio = Gpio()
    gpio[IBE], gpio[IE] = 8, 8

    gpio.press(3)
    gpio[IC] = 8
    gpio.clock.move(4)
    assert gpio[RIS] == 0
    gpio.clock.move(2)

    assert gpio[RIS] == 8


def test_load_when_given_what_save_gave_is_the_same() -> None:
    gpio, other = Gpio(), Gpio()
    gpio[DIR], gpio[IE], gpio[IEV] = 0xF0, 8, 8
    gpio.drive(3, True)

    other.load(gpio.save())

    assert (other.save(), other.wire.level) == (gpio.save(), True)


def test_load_when_given_something_else_raises() -> None:
    with pytest.raises(ValueError, match="PL061"):
        Gpio().load({"registers": [0] * 6, "pins": []})


@given(st.lists(st.tuples(st.integers(0, 0x42F), st.integers(0, 1 << 32)), max_size=40))
def test_wire_after_any_writes_is_true(writes: list[tuple[int, int]]) -> None:
    gpio = Gpio()
    for number, (offset, value) in enumerate(writes):
        gpio.write(offset & ~3, 4, value & 0xFFFF_FFFF)
        gpio.drive(number % 8, bool(value & 1))
        assert gpio.wire.level == bool(gpio[MIS])
