"""The PL011: what its manual says of registers, FIFOs and interrupts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.devices.pl011 import CR, DR, FR, ICR, IFLS, IMSC, LCR_H, MIS, RIS, RSR, Pl011
from pyvmm.devices.uart import POLLS
from tests.support.serial_port import Host, Timers, Wire

RX, TX, RT, BE, OE = 0x10, 0x20, 0x40, 0x200, 0x400
FIFOS = 0x10
LOOPBACK = 0x380


class Port(Pl011):
    """A port with short accessors and everything around it at hand."""

    def __init__(self) -> None:
        self.wire, self.host = Wire(), Host()
        super().__init__(Timers(), self.wire)  # type: ignore[arg-type]
        self.connect(self.host)
        self[ICR] = 0x7FF  # the carrier's coming up is told
        self.listen()

    def listen(self) -> None:
        """Poll for input until it may come."""
        self.host.space()
        for _ in range(POLLS):
            self[FR]
        self.host.resumed = 0

    def __getitem__(self, offset: int) -> int:
        return self.read(offset, 4)

    def __setitem__(self, offset: int, value: int) -> None:
        self.write(offset, 4, value)


@pytest.fixture
def port() -> Port:
    return Port()


def test_registers_after_power_on_are_those_of_the_manual(port: Port) -> None:
    assert (port[FR] & 0xFF, port[CR], port[IFLS], port[IMSC], port[RIS]) == (0x97, 0x300, 0x12, 0, 0)


def test_identification_names_a_pl011_of_revision_r1p5(port: Port) -> None:
    assert [port[0xFE0 + 4 * i] for i in range(8)] == [0x11, 0x10, 0x34, 0, 0x0D, 0xF0, 0x05, 0xB1]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_data_when_written_in_any_width_is_one_byte(port: Port, size: int) -> None:
    port.write(DR, size, 0x41)

    assert port.host.sent == b"A"


def test_data_when_written_in_a_burst_goes_to_the_backend_in_order(port: Port) -> None:
    port.write_burst(DR, 2, [0x61, 0x62, 0x63])

    assert port.host.sent == b"abc"


def test_observer_when_the_guest_sends_sees_the_same(port: Port) -> None:
    seen: list[bytes] = []
    port.tap(seen.append)

    port.write_many(DR, b"hello")

    assert seen == [b"hello"]


def test_transmit_interrupt_when_a_byte_was_sent_is_pending_until_cleared(port: Port) -> None:
    port[IMSC] = TX
    assert not port.wire.level

    port[DR] = 0x41
    assert (port.wire.level, port[MIS]) == (True, TX)

    port[ICR] = TX
    assert (port.wire.level, port[MIS]) == (False, 0)


def test_transmitter_when_the_backend_is_full_says_so_and_tells_when_it_has_room(port: Port) -> None:
    port[IMSC] = TX
    port.host.become_full()
    port[DR] = 0x41
    assert port[FR] & 0xA0 == 0x20
    assert not port.wire.level

    port.host.drain()

    assert port[FR] & 0xA0 == 0x80
    assert port.wire.level


@pytest.mark.parametrize(("ifls", "level"), [(0, 4), (1, 8), (2, 16), (3, 24), (4, 28)])
def test_receive_interrupt_when_the_fifo_reaches_its_level_is_pending(
    port: Port, ifls: int, level: int
) -> None:
    port[LCR_H], port[IFLS] = FIFOS, ifls << 3

    port.host.type(b"x" * (level - 1))
    assert port[RIS] == RT
    port.host.type(b"x")
    assert port[RIS] == RX


def test_receiver_without_fifos_holds_one_byte(port: Port) -> None:
    assert port.host.space() == 1
    port.host.type(b"ab")

    assert (port[RIS], port[FR] & 0x50) == (RX, 0x40)
    assert port[DR] == ord("a")
    assert (port[RIS], port[FR] & 0x50) == (0, 0x10)


def test_receiver_when_it_has_room_again_asks_for_more(port: Port) -> None:
    port[LCR_H] = FIFOS
    port.host.type(b"x" * 40)
    assert port.host.space() == 0

    for _ in range(16):
        assert port[DR] == ord("x")

    assert port.host.resumed == 1


def test_wire_when_bytes_are_left_stays_up_until_the_last_is_read(port: Port) -> None:
    port[LCR_H], port[IMSC] = FIFOS, RX | RT
    port.host.type(b"abc")

    levels = []
    for _ in range(3):
        levels.append(port.wire.level)
        port[DR]

    assert levels == [True, True, True]
    assert not port.wire.level


def test_break_when_it_comes_is_a_byte_with_its_flag(port: Port) -> None:
    port[IMSC] = BE
    port.host.on_break()
    assert port.wire.level

    assert port[DR] == 0x400
    assert port[RSR] == 4
    port[RSR] = 0
    assert port[RSR] == 0


def test_loopback_when_on_hears_itself_and_not_the_host(port: Port) -> None:
    port[LCR_H], port[CR] = FIFOS, LOOPBACK
    assert port.host.space() == 0

    port.write_many(DR, b"me")

    assert (port[DR], port[DR], port.host.sent) == (ord("m"), ord("e"), b"")


def test_loopback_when_it_overruns_counts_and_tells(port: Port) -> None:
    port[CR] = LOOPBACK

    port.write_many(DR, b"abc")

    assert (port.overruns, port[RIS] & OE, port[RSR] & 8) == (2, OE, 8)


def test_load_when_given_what_save_gave_is_the_same_port(port: Port) -> None:
    port[LCR_H], port[IMSC], port[0x24] = FIFOS, RX | RT, 13
    port.host.type(b"abc")
    other = Port()

    other.load(port.save())

    assert other.save() == port.save()
    assert other.wire.level
    assert bytes(other[DR] for _ in range(3)) == b"abc"


@pytest.mark.parametrize(
    "change",
    [{"registers": None}, {"registers": [1]}, {"status": [-1, 0]}, {"received": 3}, {"status": ["x", 1]}],
)
def test_load_when_given_something_else_raises(port: Port, change: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        port.load({**port.save(), **change})


STEPS = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 0xFFF), st.sampled_from([1, 2, 4, 8])),
    st.tuples(
        st.just("write"),
        st.sampled_from(range(0, 0x50, 2)),
        st.sampled_from([1, 2, 4, 8]),
        st.integers(0, 0x7FF),
    ),
    st.tuples(st.just("type"), st.binary(max_size=40)),
    st.sampled_from([("break",), ("full",), ("drain",), ("reset",), ("reload",)]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_random_accesses_keep_the_port_bounded_and_its_wire_true(steps: list[tuple[object, ...]]) -> None:
    port = Port()
    for step in steps:
        match step:
            case ("read", int(offset), int(size)) if offset + size <= 0x1000:
                assert 0 <= port.read(offset, size) < 1 << 8 * size
            case ("write", int(offset), int(size), int(value)):
                port.write(offset, size, value & (1 << 8 * size) - 1)
            case ("type", bytes(data)):
                port.host.type(data)
            case ("break",):
                port.host.on_break()
            case ("full",):
                port.host.become_full()
            case ("drain",):
                port.host.drain()
            case ("reset",):
                port.reset()
            case ("reload",):
                port.load(port.save())
        received = port.save()["received"]
        assert isinstance(received, list) and len(received) <= 32
        assert port.wire.level == bool(port[MIS])
