"""Lookup, dispatch, borders, the unclaimed, and lookups while the table changes."""

from __future__ import annotations

import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.board.board import PlacementError
from pyvmm.board.bus import Bus
from pyvmm.board.device import Device
from pyvmm.board.space import DEVICE, IRQ, MMIO, PORT, Window


class Recorder(Device):
    """Answers with its offset, and keeps what was written."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        return offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size, value))


def window(base: int, size: int, owner: str = "device", space: int = MMIO) -> Window:
    return Window(space, base, size, owner, DEVICE)


@pytest.fixture
def bus() -> Bus:
    return Bus(MMIO)


def test_read_when_claimed_asks_the_device_at_its_offset(bus: Bus) -> None:
    bus.attach(window(0x2000, 0x100), Recorder())
    bus.attach(window(0x1000, 0x100), Recorder())

    assert bus.read(0x1010, 4) == 0x10
    assert bus.read(0x20FC, 4) == 0xFC
    assert bus.unclaimed_reads == 0


def test_write_when_claimed_reaches_the_device_at_its_offset(bus: Bus) -> None:
    device = Recorder()
    bus.attach(window(0x1000, 0x100), device)

    bus.write(0x1008, 2, 0xBEEF)

    assert device.writes == [(8, 2, 0xBEEF)]
    assert bus.unclaimed_writes == 0


@pytest.mark.parametrize(("size", "ones"), [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFFFFFF), (8, (1 << 64) - 1)])
def test_read_when_unclaimed_is_all_ones_and_counted(bus: Bus, size: int, ones: int) -> None:
    assert bus.read(0x5000, size) == ones
    assert bus.unclaimed_reads == 1


def test_write_when_unclaimed_is_dropped_and_counted(bus: Bus) -> None:
    bus.write(0x5000, 4, 1)

    assert bus.unclaimed_writes == 1


@pytest.mark.parametrize(
    ("address", "writes"),
    [
        (0xFFC, []),
        (0xFFD, [(0, 1, 0x44)]),
        (0xFFE, [(0, 2, 0x4433)]),
        (0xFFF, [(0, 2, 0x3322), (2, 1, 0x44)]),
        (0x10FD, [(0xFD, 1, 0x11), (0xFE, 2, 0x3322)]),
        (0x10FF, [(0xFF, 1, 0x11)]),
        (0x1100, []),
    ],
)
def test_access_when_it_leaves_the_window_gives_the_device_its_own_bytes(
    bus: Bus, address: int, writes: list[tuple[int, int, int]]
) -> None:
    device = Recorder()
    bus.attach(window(0x1000, 0x100), device)

    bus.write(address, 4, 0x44332211)
    answer = bus.read(address, 4).to_bytes(4, "little")

    assert device.writes == writes
    for offset, size, _ in writes:
        at = 0x1000 + offset - address
        assert answer[at : at + size] == offset.to_bytes(size, "little")
    mine = range(max(0x1000 - address, 0), max(0x1100 - address, 0))
    assert all(answer[at] == 0xFF for at in range(4) if at not in mine)
    assert (bus.unclaimed_reads, bus.unclaimed_writes) == (1, 1)


def test_access_when_it_spans_two_adjacent_devices_is_split_between_them(bus: Bus) -> None:
    devices = Recorder(), Recorder()
    bus.attach(window(0x1000, 0x100), devices[0])
    bus.attach(window(0x1100, 0x100), devices[1])

    bus.write(0x10FE, 4, 0x44332211)

    assert (devices[0].writes, devices[1].writes) == ([(0xFE, 2, 0x2211)], [(0, 2, 0x4433)])
    assert bus.read(0x10FE, 4) == 0x0000_00FE
    assert (bus.unclaimed_reads, bus.unclaimed_writes) == (0, 0)


@pytest.mark.parametrize("size", [3, 5, 6, 7])
def test_access_when_kvm_cut_it_at_a_page_reaches_the_device_in_pieces(bus: Bus, size: int) -> None:
    device = Recorder()
    bus.attach(window(0x1000, 0x100), device)

    assert bus.find(0x1001, size) is None
    bus.write(0x1001, size, int.from_bytes(bytes(range(1, size + 1)), "little"))

    assert all(width in (1, 2, 4, 8) and offset % width == 0 for offset, width, _ in device.writes)
    sent = b"".join(value.to_bytes(width, "little") for _, width, value in device.writes)
    assert sent == bytes(range(1, size + 1))
    assert (bus.unclaimed_reads, bus.unclaimed_writes) == (0, 0)


def test_access_when_split_goes_from_the_lowest_address_up(bus: Bus) -> None:
    device = Recorder()
    bus.attach(window(0x1000, 2), device)
    bus.attach(window(0x1003, 1), device)

    bus.write(0x1000, 4, 0x44332211)

    assert device.writes == [(0, 2, 0x2211), (0, 1, 0x44)]
    assert bus.unclaimed_writes == 1


def test_owner_is_the_first_device_of_an_access(bus: Bus) -> None:
    device = Recorder()
    bus.attach(window(0x1000, 0x100), device)

    assert bus.owner(0xFFE, 4) is device
    assert bus.owner(0xFFE, 2) is None


def test_find_when_claimed_gives_device_and_offset(bus: Bus) -> None:
    device = Recorder()
    bus.attach(window(0x1000, 0x100), device)

    assert bus.find(0x10FF, 1) == (device, 0xFF)
    assert bus.find(0x10FF, 2) is None
    assert bus.find(0, 1) is None


def test_detach_when_attached_leaves_the_place_unclaimed(bus: Bus) -> None:
    taken = window(0x1000, 0x100)
    bus.attach(taken, Recorder())

    bus.detach(taken)

    assert bus.find(0x1000, 1) is None
    bus.attach(window(0x1080, 0x100), Recorder())


def test_detach_when_not_attached_is_refused(bus: Bus) -> None:
    bus.attach(window(0x1000, 0x100), Recorder())

    with pytest.raises(PlacementError, match="is not attached"):
        bus.detach(window(0x1000, 0x100))


def test_attach_when_overlapping_names_both_owners(bus: Bus) -> None:
    bus.attach(window(0x1000, 0x100, "one"), Recorder())

    with pytest.raises(PlacementError, match=r"0x10ff-0x11fe of 'two' overlaps mmio 0x1000-0x10ff of 'one'"):
        bus.attach(window(0x10FF, 0x100, "two"), Recorder())

    assert bus.find(0x1100, 1) is None


def test_attach_when_of_another_space_is_refused(bus: Bus) -> None:
    with pytest.raises(PlacementError, match="cannot be attached to the mmio bus"):
        bus.attach(window(0x3F8, 8, space=PORT), Recorder())


def test_bus_when_made_for_interrupts_is_refused() -> None:
    with pytest.raises(PlacementError, match="interrupt lines have none"):
        Bus(IRQ)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 8)), max_size=12),
    st.lists(st.tuples(st.integers(0, 70), st.sampled_from([1, 2, 4, 8])), max_size=20),
)
def test_find_agrees_with_a_search_of_every_window(
    wishes: list[tuple[int, int]], accesses: list[tuple[int, int]]
) -> None:
    bus = Bus(PORT)
    attached: list[tuple[Window, Device]] = []
    for base, size in wishes:
        entry = window(base, size, space=PORT), Recorder()
        try:
            bus.attach(*entry)
        except PlacementError:
            continue
        attached.append(entry)

    for address, size in accesses:
        expected = [
            (device, address - place.base)
            for place, device in attached
            if place.base <= address and address + size <= place.end
        ]
        assert bus.find(address, size) == (expected[0] if expected else None)


def test_read_when_others_attach_and_detach_always_finds_the_device(bus: Bus) -> None:
    bus.attach(window(0x8000, 0x100), Recorder())
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            places = [window(base, 0x100) for base in range(0, 0x1000, 0x100)]
            for place in places:
                bus.attach(place, Recorder())
            for place in places:
                bus.detach(place)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        wrong = [value for value in (bus.read(0x8010, 4) for _ in range(20000)) if value != 0x10]
    finally:
        stop.set()
        thread.join(10)

    assert wrong == []


def test_counters_when_several_threads_miss_lose_none(bus: Bus) -> None:
    def miss() -> None:
        for _ in range(2000):
            bus.read(0, 1)
            bus.write(0, 1, 0)

    threads = [threading.Thread(target=miss) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        sys.setswitchinterval(interval)

    assert (bus.unclaimed_reads, bus.unclaimed_writes) == (8000, 8000)
