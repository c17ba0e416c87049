"""Devices put into a machine by name: their place, their interrupt, and nothing left of one refused."""

from __future__ import annotations

import pytest

from pyvmm.board.board import Board, PlacementError
from pyvmm.board.bus import Bus
from pyvmm.board.device import Device, Line
from pyvmm.board.devices import DeviceTable
from pyvmm.board.space import IRQ, MMIO, PORT
from pyvmm.errors import ConfigError

ARENAS = {MMIO: [(0x1000_0000, 0x1000_4000)], IRQ: [(16, 18)]}


class NumberedLine(Line):
    def __init__(self, number: int) -> None:
        self.number = number


class Place:
    """A board, its buses, and a table that puts devices there."""

    def __init__(self, port_base: int | None = None) -> None:
        self.board, self.ports, self.mmio = Board(ARENAS), Bus(PORT), Bus(MMIO)
        self.table = DeviceTable(self.board, self.ports, self.mmio, NumberedLine, port_base)

    def map(self) -> str:
        return self.board.describe()


def test_device_when_given_a_port_answers_there_and_has_no_interrupt() -> None:
    place, device = Place(), Device()

    placed = place.table.add("one", device, 2, port=0x80)

    assert (placed.port, placed.address, placed.size, placed.irq) == (0x80, None, 2, None)
    assert place.ports.find(0x81, 1) == (device, 1)
    assert place.table.items() == [("one", device)]
    assert type(device.line) is Line


def test_device_when_ports_lie_among_the_addresses_answers_there() -> None:
    place, device = Place(0x3EFF_0000), Device()

    placed = place.table.add("one", device, 1, port=0x80)

    assert placed.port == 0x80
    assert place.mmio.find(0x3EFF_0080, 1) == (device, 0)
    with pytest.raises(PlacementError, match="'one'"):
        place.table.add("two", Device(), 1, port=0x80)


def test_devices_when_given_no_place_get_pages_of_their_own() -> None:
    place = Place()

    found = [place.table.add(f"number {n}", Device(), 8).address for n in range(3)]

    assert found == [0x1000_0000, 0x1000_1000, 0x1000_2000]


def test_device_when_it_asks_for_an_interrupt_gets_its_line() -> None:
    place, first, second = Place(), Device(), Device()

    placed = [
        place.table.add("one", first, 4, address=0x2000_0000, irq=True),
        place.table.add("two", second, 4, irq=5),
    ]

    assert [each.irq for each in placed] == [16, 5]
    assert [device.line.number for device in (first, second)] == [16, 5]


@pytest.mark.parametrize(
    ("where", "error", "sentence"),
    [
        ({"port": 0x80}, PlacementError, "port 0x80-0x83 of 'new' overlaps port 0x80-0x81 of 'old'"),
        ({"port": 0xFFFF}, PlacementError, "goes from 0 to 0xffff"),
        ({"address": 0x2000_0002}, PlacementError, "overlaps mmio 0x20000000-0x20000003 of 'other'"),
        ({"address": 0x3000_0000, "irq": 5}, PlacementError, "irq 5 of 'new' is also irq 5 of 'other'"),
        ({"irq": 5}, PlacementError, "irq 5"),
        ({"port": 0, "address": 0}, ConfigError, "a port and an address"),
    ],
)
def test_device_when_refused_leaves_nothing(
    where: dict[str, int], error: type[Exception], sentence: str
) -> None:
    place, device = Place(), Device()
    place.table.add("old", Device(), 2, port=0x80)
    place.table.add("other", Device(), 4, address=0x2000_0000, irq=5)
    before = place.map()

    with pytest.raises(error, match=sentence):
        place.table.add("new", device, 4, **where)

    assert place.map() == before
    place.table.add("new", device, 4, port=0x90, irq=6)


def test_name_when_taken_is_refused_and_its_owner_keeps_its_place() -> None:
    place, device = Place(), Device()
    place.table.add("one", device, 1, port=0x80)

    with pytest.raises(PlacementError, match="two components are called 'one'"):
        place.table.add("one", Device(), 1, port=0x90)

    assert place.ports.find(0x80, 1) == (device, 0)


def test_interrupts_when_all_are_taken_are_refused_by_name() -> None:
    place = Place()
    for n in range(2):
        place.table.add(f"number {n}", Device(), 1, irq=True)

    with pytest.raises(PlacementError, match="no room for 0x1 in the irq arena"):
        place.table.add("one more", Device(), 1, irq=True)
