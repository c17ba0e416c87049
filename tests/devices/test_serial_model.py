"""Random register accesses and host events: the port never raises, stays bounded and consistent."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.devices.serial import FCR, IIR, LSR, MCR, RBR
from tests.support.serial_port import Port

VALUES = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFFFFFF, 8: (1 << 64) - 1}
SIZES = st.sampled_from(sorted(VALUES))

STEPS = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 7), SIZES),
    st.tuples(st.just("write"), st.integers(0, 7), st.just(1), st.integers(0, 255)),
    st.tuples(st.just("write"), st.integers(0, 7), SIZES, st.integers(0, VALUES[8])),
    st.tuples(st.just("burst"), st.integers(0, 7), st.binary(max_size=40)),
    st.tuples(st.just("type"), st.binary(max_size=40)),
    st.sampled_from([("break",), ("full",), ("drain",), ("expire",), ("reset",), ("reload",)]),
)


def play(port, step):
    match step:
        case ("read", offset, size):
            assert 0 <= port.read(offset, size) <= VALUES[size]
        case ("write", offset, size, value):
            port.write(offset, size, value & VALUES[size])
        case ("burst", offset, data):
            port.write_many(offset, data)
        case ("type", data):
            port.host.type(data)
        case ("break",):
            port.host.on_break()
        case ("full",):
            port.host.become_full()
        case ("drain",):
            port.host.drain()
        case ("expire",):
            port.timers.expire()
        case ("reset",):
            port.reset()
        case ("reload",):
            port.load(port.save())


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_random_accesses_keep_the_port_bounded_and_its_line_true(steps):
    port = Port()
    for step in steps:
        play(port, step)
        assert len(port.save()["received"]) <= 16
        assert len(port.timers.calls) <= 1
        # The wire is high exactly while IIR tells of an interrupt; reading THRE takes it down.
        level = port.wire.level
        pending = port[IIR]
        assert level == (not pending & 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_port_after_any_history_can_be_reset_and_used(steps):
    port = Port()
    for step in steps:
        play(port, step)
    port.host.drain()
    port.reset()
    port.host.sent = b""
    port[FCR] = 0x07
    port.listen()
    port.host.type(b"in")
    port[0] = ord("o")
    assert (port[LSR], port[MCR]) == (0x61, 0)
    assert (port[RBR], port[RBR]) == tuple(b"in")
    assert port.host.sent == b"o"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["type", "read"]), max_size=200), st.sampled_from([0x00, 0x01, 0x81]))
def test_input_offered_as_space_allows_is_read_in_order_without_loss(moves, fcr):
    port = Port()
    port[FCR] = fcr
    typed, read = 0, []
    for move in moves:
        if move == "type":
            room = port.host.space()
            port.host.receive(bytes((typed + i) % 256 for i in range(room)))
            typed += room
        elif port[LSR] & 1:
            read.append(port[RBR])
    while port[LSR] & 1:
        read.append(port[RBR])
    assert read == [value % 256 for value in range(typed)]
    assert port.overruns == 0
