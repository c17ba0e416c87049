"""The socket device and a driver that breaks the rules: row 19 of what a VMM must survive, and more."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.virtio import features as f
from pyvmm.virtio.vsock import device as vsock
from pyvmm.virtio.vsock import outbox
from pyvmm.virtio.vsock import packet as p
from pyvmm.virtio.vsock.device import RX, TX
from pyvmm.virtio.vsock.outbox import MAX_RESETS
from tests.support.vsock_guest import CID, PORT, VsockGuest

HEADER = p.HEADER.pack(CID, p.CID_HOST, PORT, 80, 0, p.TYPE_STREAM, p.OP_REQUEST, 0, 1 << 18, 0)


def works(guest: VsockGuest) -> bool:
    """Whether a new connection is served."""
    guest.packets()
    guest.send(p.OP_REQUEST, port=9999, host_port=9)
    return guest.ops() == [p.OP_RST]


# Headers


@pytest.mark.parametrize("size", [1, 43])
def test_header_when_short_is_refused_and_the_device_goes_on(size: int) -> None:
    with VsockGuest() as guest:
        guest.driver.queues[TX].add([HEADER[:size]])
        guest.turn()

        assert guest.device.refused == 1 and works(guest)


def test_header_when_there_is_no_readable_byte_is_refused() -> None:
    with VsockGuest() as guest:
        guest.driver.queues[TX].add(writable=[64])
        guest.turn()

        assert guest.device.refused == 1 and works(guest)


def test_header_when_in_pieces_is_read_whole() -> None:
    with VsockGuest() as guest:
        guest.driver.queues[TX].add([HEADER[n : n + 1] for n in range(len(HEADER))])
        guest.turn()

        assert guest.ops() == [p.OP_RST]


@pytest.mark.parametrize("size", [9, 65 << 10, 0xFFFF_FFFF])
def test_length_when_over_the_data_given_resets_the_connection(size: int) -> None:
    with VsockGuest() as guest:
        sock = guest.connection()

        guest.send(p.OP_RW, b"8 bytes.", size=size)

        assert guest.ops() == [p.OP_RST]
        assert sock.recv(10) == b"" and works(guest)


def test_length_when_over_64_kib_resets_the_connection() -> None:
    with VsockGuest() as guest:
        guest.connection()

        guest.send(p.OP_RW, bytes((64 << 10) + 1))

        assert guest.ops() == [p.OP_RST] and works(guest)


def test_length_when_under_the_data_given_is_what_counts() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()

        guest.send(p.OP_RW, b"0123456789", size=4)

        assert sock.recv(100) == b"0123"


def test_data_when_empty_is_nothing() -> None:
    with VsockGuest() as guest:
        guest.connection()

        guest.send(p.OP_RW)

        assert guest.ops() == [] and guest.device.refused == 0


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        ({"target": 3}, 3),
        ({"target": 99}, 99),
        ({"target": 0}, 0),
        ({"source": 4}, p.CID_HOST),
        ({"kind": 2}, p.CID_HOST),
        ({"kind": 0xFFFF}, p.CID_HOST),
    ],
)
def test_address_or_type_when_wrong_is_reset(fields: dict[str, int], source: int) -> None:
    with VsockGuest() as guest:
        guest.listen()

        guest.send(p.OP_REQUEST, **fields)

        (answer,) = guest.packets()
        assert (answer.op, answer.source, answer.target) == (p.OP_RST, source, CID)
        assert answer.kind == fields.get("kind", p.TYPE_STREAM)
        assert not guest.device.connections


def test_reset_when_for_nobody_is_not_answered() -> None:
    with VsockGuest() as guest:
        guest.send(p.OP_RST)
        guest.send(p.OP_RST, target=77)
        guest.send(p.OP_RST, kind=7)

        assert guest.ops() == []


@pytest.mark.parametrize("op", [p.OP_RESPONSE, p.OP_SHUTDOWN, p.OP_RW, p.OP_CREDIT_UPDATE, 0, 8, 0xFFFF])
def test_packet_when_for_no_connection_is_reset(op: int) -> None:
    with VsockGuest() as guest:
        guest.send(op)

        assert guest.ops() == [p.OP_RST] and works(guest)


@pytest.mark.parametrize("op", [p.OP_REQUEST, p.OP_RESPONSE, 0, 8, 0xFFFF])
def test_packet_when_out_of_place_resets_its_connection(op: int) -> None:
    with VsockGuest() as guest:
        sock = guest.connection()

        guest.send(op)

        assert guest.ops() == [p.OP_RST]
        assert sock.recv(1) == b"" and works(guest)


@pytest.mark.parametrize("op", [p.OP_RW, p.OP_SHUTDOWN, p.OP_CREDIT_REQUEST])
def test_packet_when_before_the_guests_answer_resets_the_connection(op: int) -> None:
    with VsockGuest() as guest:
        sock = guest.connect()
        (request,) = guest.packets()

        guest.send(op, b"x" if op == p.OP_RW else b"", host_port=request.host_port)

        assert guest.ops() == [p.OP_RST]
        assert sock.recv(10) == b""


# Credit


def test_credit_when_ignored_by_the_guest_resets_the_connection_and_bounds_what_is_kept() -> None:
    with VsockGuest() as guest:
        guest.connection()
        (connection,) = guest.device.connections.values()
        most = 0

        for _ in range(1000):
            guest.send(p.OP_RW, bytes(32 << 10))
            if not guest.device.connections:
                break
            most = max(most, connection.backlog)

        assert p.OP_RST in guest.ops()
        assert most <= vsock.SPACE and works(guest)


@pytest.mark.parametrize(("buf_alloc", "fwd_cnt"), [(0, 0), (0, 0xFFFF_FFFF), (100, 0x8000_0000)])
def test_credit_when_it_is_nonsense_counts_as_none(buf_alloc: int, fwd_cnt: int) -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        guest.buf_alloc, guest.fwd_cnt = buf_alloc, fwd_cnt
        guest.send(p.OP_CREDIT_UPDATE)
        sock.sendall(b"waits")

        assert guest.ops() == [p.OP_CREDIT_REQUEST]


def test_credit_when_asked_for_without_end_is_answered_once_a_time() -> None:
    with VsockGuest(buffers=8) as guest:
        guest.connection()
        for _ in range(100):
            guest.post(p.OP_CREDIT_REQUEST)
        guest.turn()

        assert guest.ops() == [p.OP_CREDIT_UPDATE]


# Floods


def test_requests_when_they_flood_are_bounded_and_the_rest_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vsock, "MAX_CONNECTIONS", 20)
    with VsockGuest() as guest:
        guest.listen(backlog=100)

        for port in range(30):
            guest.send(p.OP_REQUEST, port=port)

        ops = guest.ops()
        assert (ops.count(p.OP_RESPONSE), ops.count(p.OP_RST)) == (20, 10)
        guest.send(p.OP_RST, port=5)
        guest.send(p.OP_REQUEST, port=500)
        assert guest.ops() == [p.OP_RESPONSE]


def test_programs_when_they_flood_wait_until_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vsock, "MAX_CONNECTIONS", 4)
    with VsockGuest() as guest:
        for _ in range(8):
            guest.connect()
        first = guest.packets()

        guest.send(p.OP_RST, host_port=first[0].host_port)

        assert [packet.op for packet in first] == [p.OP_REQUEST] * 4
        assert guest.ops() == [p.OP_REQUEST]


def test_programs_that_come_and_go_are_accepted_no_more_when_the_guest_takes_no_packets() -> None:
    with VsockGuest(buffers=0) as guest:
        for _ in range(2000):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as program:
                try:
                    program.connect(guest.path)
                except BlockingIOError:
                    break  # the backlog is full
                program.send(b"CONNECT 1234\n")
                guest.driver.run()
            guest.driver.run()
        else:
            pytest.fail("a reset for each of 2000 programs is kept for the guest")

        guest.offer(64)
        while guest.packets():
            pass
        guest.connect(b"CONNECT 77\n")
        assert [packet.guest_port for packet in guest.packets()] == [77]


def test_connections_when_many_are_given_less_room_each() -> None:
    with VsockGuest() as guest:
        guest.listen(backlog=100)
        for port in range(vsock.LARGE_CONNECTIONS + 1):
            guest.send(p.OP_REQUEST, port=port)

        answers = guest.packets()
        assert [answers[0].buf_alloc, answers[-1].buf_alloc] == [vsock.SPACE, vsock.SMALL_SPACE]


def test_packets_when_they_cause_resets_and_there_are_no_buffers_stop_being_taken() -> None:
    with VsockGuest(buffers=0) as guest:
        queue = guest.driver.queues[TX]
        for _ in range(4):
            for _ in range(100):
                guest.post(p.OP_RW, port=1)
            queue.kick()
            guest.driver.run()
            queue.collect()
        taken, waiting = guest.device._outbox._resets, queue.size - queue.free

        guest.offer(100)

        assert (taken, waiting) == (MAX_RESETS, 400 - MAX_RESETS)
        assert guest.ops() == [p.OP_RST] * 400
        queue.collect()
        assert queue.free == queue.size and works(guest)


def test_sockets_when_many_are_ready_at_once_share_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    with VsockGuest() as guest:
        listener = guest.listen(backlog=64)
        for port in range(32):
            guest.send(p.OP_REQUEST, port=port)
        assert guest.ops() == [p.OP_RESPONSE] * 32
        programs = [listener.accept()[0] for _ in range(32)]
        guest.sockets += programs
        now = iter(range(1 << 20))
        monkeypatch.setattr(outbox, "monotonic", lambda: next(now) * outbox.TURN * 0.4)
        for program in programs:
            program.sendall(b"x" * 100)

        turns = []
        while guest.driver.loop.run_once(0):
            turns.append(len(guest.driver.queues[RX].collect()))

        assert sum(turns) == 32
        assert max(turns) <= 2 * 3  # by the sockets that were ready, and by the queue that is run again


def test_port_pair_when_asked_for_again_resets_the_first() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()

        guest.send(p.OP_REQUEST)
        again = guest.ops()
        guest.send(p.OP_REQUEST)

        assert (again, guest.ops()) == ([p.OP_RST], [p.OP_RESPONSE])
        assert sock.recv(1) == b""


def test_port_pair_when_the_program_has_left_is_free_for_the_guest() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        sock.close()
        assert guest.ops() == [p.OP_SHUTDOWN]

        guest.send(p.OP_REQUEST)

        assert guest.ops() == [p.OP_RESPONSE]


# Buffers


@pytest.mark.parametrize("size", [1, 43, 44])
def test_receive_buffer_when_it_has_no_room_is_given_back(size: int) -> None:
    with VsockGuest(buffers=0) as guest:
        small = guest.driver.queues[RX].add(writable=[size])
        guest.offer(4)
        guest.send(p.OP_RW)

        assert guest.ops() == [p.OP_RST]
        assert small.done and small.written == 0


def test_receive_buffer_when_read_only_is_given_back() -> None:
    with VsockGuest(buffers=0) as guest:
        wrong = guest.driver.queues[RX].add([bytes(100)])
        guest.offer(4)
        guest.send(p.OP_RW)

        assert guest.ops() == [p.OP_RST]
        assert wrong.done and wrong.written == 0


def test_event_buffer_when_too_small_loses_the_event_alone() -> None:
    with VsockGuest() as guest:
        guest.driver.queues[vsock.EVENT].add(writable=[2])
        guest.driver.transport.load(guest.driver.transport.save())
        guest.driver.run()

        assert guest.driver.queues[vsock.EVENT].collect() and works(guest)


def test_driver_when_it_breaks_the_ring_stops_the_device_until_its_reset() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        queue = guest.driver.queues[TX]
        queue.set_avail_idx(queue.avail_idx + 1000)
        queue.kick()
        guest.driver.run()
        assert guest.driver.status & f.DEVICE_NEEDS_RESET

        guest.driver.probe()
        guest.offer(8)

        assert sock.recv(1) == b"" and works(guest)


def test_device_when_its_socket_is_gone_still_resets(tmp_path: Path) -> None:
    with VsockGuest() as guest:
        os.unlink(guest.path)

        assert works(guest)


packets = st.builds(
    dict,
    op=st.integers(0, 9),
    port=st.integers(1, 3),
    host_port=st.sampled_from([80, 81, vsock.FIRST_HOST_PORT, vsock.FIRST_HOST_PORT + 1]),
    flags=st.integers(0, 7),
    size=st.one_of(st.none(), st.integers(0, 1 << 17)),
    data=st.binary(max_size=5000),
)
host = st.sampled_from(["connect", "send", "read", "close", "half", "accept"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(packets, host), max_size=40))
def test_device_whatever_both_sides_do_keeps_its_bounds_and_comes_to_rest(steps: list[object]) -> None:
    with VsockGuest() as guest:
        listener = guest.listen(80)
        listener.setblocking(False)
        socks: list[socket.socket] = []
        for step in steps:
            if isinstance(step, dict):
                guest.send(**step)
            elif step == "connect":
                socks.append(guest.connect(b"CONNECT 2\n"))
                socks[-1].setblocking(False)
            elif step == "accept":
                _accept(listener, socks)
            elif socks:
                _act(step, socks)
            guest.packets()  # ends only when the loop has nothing left to do
            for connection in guest.device.connections.values():
                assert connection.backlog <= connection.space
        for sock in socks:
            sock.close()
        guest.driver.reset()
        assert not guest.device.connections and not guest.device._lingering


def _accept(listener: socket.socket, socks: list[socket.socket]) -> None:
    try:
        sock = listener.accept()[0]
    except BlockingIOError:
        return
    sock.setblocking(False)
    socks.append(sock)


def _act(step: object, socks: list[socket.socket]) -> None:
    try:
        if step == "send":
            socks[-1].send(bytes(100_000))
        elif step == "read":
            socks[-1].recv(100_000)
        elif step == "half":
            socks[-1].shutdown(socket.SHUT_WR)
        else:
            socks.pop().close()
    except OSError:
        pass  # the device has ended it
