"""The in-process switch: where frames go, what happens with slow and hostile guests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pyvmm.backends.net.switch import ADDRESSES, Switch, named_switch
from pyvmm.virtio.features import COMMON
from pyvmm.virtio.net import features as nf
from pyvmm.virtio.net.device import Net
from pyvmm.virtio.net.header import LAYOUT
from pyvmm.virtio.net.receive import BACKLOG
from tests.support.frames import tcp_frame
from tests.support.net_driver import HEADER, NetDriver, frame

A, B, C = (bytes((0x52, 0x54, 0, 0, 0, n)) for n in (1, 2, 3))


@pytest.fixture
def three() -> Iterator[list[NetDriver]]:
    """Three guests on one switch, with addresses A, B and C and buffers to receive into."""
    switch = Switch()
    with ExitStack() as stack:
        drivers = [stack.enter_context(NetDriver(Net(switch.port(), mac=mac))) for mac in (A, B, C)]
        for driver in drivers:
            driver.give(*[2048] * 64)
        yield drivers


def counts(drivers: list[NetDriver]) -> list[int]:
    return [len(driver.received()) for driver in drivers]


def test_frame_to_an_address_not_seen_yet_goes_to_all_others(three: list[NetDriver]) -> None:
    three[0].send(frame(60, B, A))

    assert counts(three) == [0, 1, 1]


def test_frame_to_an_address_seen_before_goes_to_its_port_alone(three: list[NetDriver]) -> None:
    three[1].send(frame(60, A, B))
    counts(three)

    three[0].send(frame(60, B, A))

    assert counts(three) == [0, 1, 0]


def test_broadcast_and_multicast_go_to_all_others(three: list[NetDriver]) -> None:
    three[0].send(frame(60, source=A))
    three[0].send(frame(60, b"\x33\x33\0\0\0\1", A))

    assert counts(three) == [0, 2, 2]


def test_frame_with_its_segments_undone_arrives_as_it_was_sent(three: list[NetDriver]) -> None:
    data, tcp = tcp_frame(bytes(30_000))
    header = LAYOUT.pack(1, 1, tcp + 20, 1448, tcp, 16, 0)

    three[0].send(data, header=header)
    three[1].run()
    requests = three[1].rx.collect()

    got = b"".join(three[1].rx.data(request) for request in requests)
    assert got[:10] == header[:10]
    assert got[HEADER:] == data


def test_segments_when_the_receiver_does_not_take_them_are_made_for_it() -> None:
    switch = Switch()
    payload = bytes(n % 251 for n in range(5000))
    data, tcp = tcp_frame(payload)
    with ExitStack() as stack:
        sender = stack.enter_context(NetDriver(Net(switch.port())))
        receiver = stack.enter_context(NetDriver(Net(switch.port()), features=COMMON | nf.F_MRG_RXBUF))
        receiver.give(*[2048] * 20)
        sender.send(data, header=LAYOUT.pack(1, 1, tcp + 20, 1448, tcp, 16, 0))

        frames = receiver.received()

    assert b"".join(one[tcp + 20 :] for one in frames) == payload
    assert len(frames) == 4


def test_header_when_it_lies_costs_its_frame_and_not_the_receiver(three: list[NetDriver]) -> None:
    three[0].send(frame(100, source=A), header=LAYOUT.pack(1, 0, 0, 0, 5000, 16, 0))
    three[0].send(frame(101, source=A))

    assert three[1].received() == [frame(101, source=A)]


def test_header_apart_from_its_frame_and_in_pieces_is_understood(three: list[NetDriver]) -> None:
    data = frame(200, source=A)
    three[0].tx.add([bytes(5), bytes(7), data[:3], data[3:20], data[20:]])
    three[0].tx.kick()
    three[0].run()

    assert three[1].received() == [data]


def test_guest_that_takes_nothing_costs_bounded_memory_and_holds_nobody_up() -> None:
    switch = Switch()
    with ExitStack() as stack:
        sender, idle, other = (stack.enter_context(NetDriver(Net(switch.port()))) for _ in range(3))
        for _ in range(100):
            other.give(*[40_000] * 2)
            sender.send(frame(60_000))
            assert len(other.received()) == 1

        kept = BACKLOG // (HEADER + 60_000)
        assert idle.device.received_dropped == 100 - kept
        idle.give(*[65_562] * 200)
        assert idle.received() == [frame(60_000)] * kept


def test_guest_with_a_broken_ring_stops_itself_and_not_the_sender(three: list[NetDriver]) -> None:
    three[1].rx.set_avail_idx(30_000)
    for _ in range(80):
        request = three[0].send(frame(2000, source=A))
        assert request.done
    three[1].run()

    assert three[1].status & 64
    assert not three[0].status & 64


def test_addresses_made_up_by_one_guest_displace_its_own_and_nobody_elses() -> None:
    switch = Switch()
    ports = [switch.port() for _ in range(3)]
    switch.forward(ports[1], B, A)
    made_up = [bytes((2, 0, 0, 0, n >> 8, n & 255)) for n in range(2 * ADDRESSES)]
    for address in made_up:
        switch.forward(ports[2], address, A)

    assert switch.forward(ports[0], A, B) == (ports[1],)
    assert switch.forward(ports[0], A, made_up[-1]) == (ports[2],)
    assert switch.forward(ports[0], A, made_up[0]) == (ports[1], ports[2])
    assert len(ports[2].addresses) == ADDRESSES


def test_port_when_its_guest_is_reset_or_gone_gets_nothing(three: list[NetDriver]) -> None:
    three[1].send(frame(60, A, B))
    three[1].reset()
    request = three[0].send(frame(60, B, A))
    three[1].device.backend.close()
    three[0].send(frame(60, B, A))

    assert request.done
    assert len(three[2].received()) == 2  # its first frame, and the one that is no more known


def test_two_guests_that_send_to_each_other_from_two_threads_lose_nothing() -> None:
    switch = Switch()
    rounds = 300
    with NetDriver(Net(switch.port(), mac=A)) as one, NetDriver(Net(switch.port(), mac=B)) as two:
        for driver in (one, two):
            driver.give(*[2048] * 250)
        got: dict[bytes, int] = {A: 0, B: 0}

        def drive(driver: NetDriver, mine: bytes, other: bytes) -> None:
            for _ in range(rounds):
                driver.send(frame(500, other, mine))
                taken = len(driver.received())
                got[mine] += taken
                driver.give(*[2048] * taken)
            driver.run(lambda: _all(driver, mine), 20)

        def _all(driver: NetDriver, mine: bytes) -> bool:
            taken = len(driver.received())
            got[mine] += taken
            if taken:
                driver.give(*[2048] * taken)
            return got[mine] >= rounds

        threads = [threading.Thread(target=drive, args=words) for words in ((one, A, B), (two, B, A))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    assert got == {A: rounds, B: rounds}


def test_named_switch_is_the_same_for_the_same_name() -> None:
    assert named_switch("test lan") is named_switch("test lan")
    assert named_switch("test lan") is not named_switch("another")


def test_frame_that_is_under_way_while_its_receiver_is_reset_harms_neither(three: list[NetDriver]) -> None:
    sink = three[1].device.backend.sink  # as a sender's thread has it in its hands
    assert sink is not None
    before = three[1].interrupts
    three[1].reset()

    sink.deliver(0, bytes(HEADER), [memoryview(frame(100, source=A))], 100)
    sink.flush()

    assert three[1].interrupts == before
    three[1].probe()
    three[1].give(2048)
    three[0].send(frame(101, source=A))
    assert three[1].received() == [frame(101, source=A)]


def test_sender_goes_on_while_its_receiver_is_reset_over_and_over(three: list[NetDriver]) -> None:
    over = threading.Event()
    errors: list[BaseException] = []

    def send() -> None:
        try:
            while not over.is_set():
                three[0].send(frame(100, source=A))
        except BaseException as error:
            errors.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for _ in range(100):
            three[1].probe()
            three[1].give(*[2048] * 4)
    finally:
        over.set()
        sender.join(10)

    assert not sender.is_alive()
    assert errors == []
