"""The socket device, driven by the fake driver: connections, data, credit, their ends. Section 5.10."""

from __future__ import annotations

import os
import select
import socket
import stat
from pathlib import Path

import pytest

from pyvmm.config import DeviceOptions
from pyvmm.errors import ConfigError
from pyvmm.loop import HANGUP
from pyvmm.testing import FakeDriver
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.options import make_device
from pyvmm.virtio.vsock import device as vsock
from pyvmm.virtio.vsock import packet as p
from pyvmm.virtio.vsock.device import TX
from tests.support.other_user import UID, listening, needs_root
from tests.support.vsock_guest import CID, PORT, ROOM, VsockGuest

# Connections


def test_request_of_the_guest_when_a_program_listens_is_granted() -> None:
    with VsockGuest() as guest:
        listener = guest.listen(80)

        guest.send(p.OP_REQUEST, host_port=80)

        (answer,) = guest.packets()
        assert (answer.op, answer.source, answer.target) == (p.OP_RESPONSE, p.CID_HOST, CID)
        assert (answer.host_port, answer.guest_port, answer.size) == (80, PORT, 0)
        assert answer.buf_alloc == vsock.SPACE
        listener.accept()[0].close()


def test_request_of_the_guest_when_nobody_listens_is_reset() -> None:
    with VsockGuest() as guest:
        guest.send(p.OP_REQUEST)

        (answer,) = guest.packets()
        assert (answer.op, answer.host_port, answer.guest_port) == (p.OP_RST, 80, PORT)
        assert not guest.device.connections


def test_request_of_a_program_when_the_guest_accepts_gets_ok_and_its_port() -> None:
    with VsockGuest() as guest:
        sock = guest.connect(b"CONNECT 1234\n")
        (request,) = guest.packets()
        guest.send(p.OP_RESPONSE, host_port=request.host_port)

        assert (request.op, request.guest_port) == (p.OP_REQUEST, 1234)
        assert sock.recv(100) == b"OK %d\n" % request.host_port
        assert request.host_port >= vsock.FIRST_HOST_PORT


def test_request_of_a_program_when_the_guest_refuses_ends_the_connection() -> None:
    with VsockGuest() as guest:
        sock = guest.connect()
        (request,) = guest.packets()

        guest.send(p.OP_RST, host_port=request.host_port)

        assert sock.recv(100) == b""
        assert not guest.device.connections


def test_request_of_a_program_when_the_guest_never_answers_ends_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vsock, "PATIENCE", 0.05)
    with VsockGuest() as guest:
        guest.connect()
        assert guest.ops() == [p.OP_REQUEST]

        guest.driver.run(lambda: not guest.device.connections)

        assert guest.ops() == [p.OP_RST]


def test_program_when_it_leaves_before_the_guest_answers_is_taken_back() -> None:
    with VsockGuest() as guest:
        sock = guest.connect()
        assert guest.ops() == [p.OP_REQUEST]
        sock.close()

        assert guest.ops() == [p.OP_RST]
        assert not guest.device.connections


def test_line_of_a_program_when_it_comes_in_pieces_is_put_together_and_no_more_taken() -> None:
    with VsockGuest() as guest:
        sock = guest.connect(b"CONN")
        assert guest.ops() == []
        sock.sendall(b"ECT 1234\nfirst words")
        (request,) = guest.packets()
        guest.send(p.OP_RESPONSE, host_port=request.host_port)

        (data,) = guest.packets()
        assert (data.op, data.data) == (p.OP_RW, b"first words")


@pytest.mark.parametrize(
    "line", [b"HELLO 1\n", b"CONNECT\n", b"CONNECT x\n", b"CONNECT 4294967295\n", b"CONNECT -1\n", b"C" * 100]
)
def test_line_of_a_program_when_it_is_none_ends_it(line: bytes) -> None:
    with VsockGuest() as guest:
        sock = guest.connect(line)
        guest.driver.run()

        with pytest.raises(BlockingIOError) if sock.fileno() < 0 else _ended():
            assert sock.recv(10) == b""
        assert guest.ops() == []


class _ended:
    """The other end has closed, with or without unread bytes."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, *_: object) -> bool:
        return kind is ConnectionResetError


def test_program_when_it_says_nothing_is_sent_away_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm.virtio.vsock.clients.PATIENCE", 0.05)
    with VsockGuest() as guest:
        sock = guest.connect(b"")
        guest.driver.run(lambda: len(guest.device._clients) == 1)

        guest.driver.run(lambda: len(guest.device._clients) == 0)

        assert sock.recv(1) == b""


def test_programs_when_the_driver_is_not_ready_wait_for_it() -> None:
    with VsockGuest() as guest:
        guest.driver.reset()
        sock = guest.connect()
        guest.driver.run()
        guest.driver.probe()
        guest.offer(8)

        (request,) = guest.packets()
        guest.send(p.OP_RESPONSE, host_port=request.host_port)
        assert sock.recv(100).startswith(b"OK ")


# Data and credit


@pytest.mark.parametrize("size", [1, 4096, 64 << 10])
def test_data_of_the_guest_when_sent_reaches_the_program(size: int) -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        data = os.urandom(size)

        guest.send(p.OP_RW, data)

        assert guest.sink(sock, size) == data


def test_data_of_the_guest_when_the_program_is_slow_is_kept_and_credit_told_later() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        chunk = os.urandom(32 << 10)
        sent = b""
        while not _connection(guest).backlog:
            guest.send(p.OP_RW, chunk)
            sent += chunk
        guest.packets()

        assert guest.sink(sock, len(sent)) == sent
        updates = [packet for packet in guest.packets() if packet.op == p.OP_CREDIT_UPDATE]
        guest.send(p.OP_CREDIT_REQUEST)
        updates += guest.packets()
        assert updates[-1].fwd_cnt == len(sent)


def test_data_of_the_guest_when_much_was_passed_on_tells_credit_without_being_asked() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        chunk = bytes(64 << 10)

        for _ in range(4):
            guest.send(p.OP_RW, chunk)
            guest.sink(sock, len(chunk))

        told = [packet.fwd_cnt for packet in guest.packets() if packet.op == p.OP_CREDIT_UPDATE]
        assert told == [128 << 10, 256 << 10]


def test_data_of_a_program_when_there_is_much_fills_the_buffers_in_order() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        data = os.urandom(150_000)
        sock.sendall(data)

        assert guest.receive(len(data)) == data


def test_data_of_a_program_when_the_guest_has_no_credit_waits_for_it() -> None:
    with VsockGuest() as guest:
        guest.buf_alloc = 1000
        sock = guest.connection()
        sock.sendall(bytes(3000))

        first, ask = guest.packets()
        guest.fwd_cnt = 600
        guest.send(p.OP_CREDIT_UPDATE)
        second, again = guest.packets()

        assert (first.op, first.size, ask.op) == (p.OP_RW, 1000, p.OP_CREDIT_REQUEST)
        assert (second.op, second.size, again.op) == (p.OP_RW, 600, p.OP_CREDIT_REQUEST)


def test_data_of_a_program_when_there_is_no_buffer_waits_for_one_and_the_loop_rests() -> None:
    with VsockGuest(buffers=1) as guest:
        listener = guest.listen()
        guest.post(p.OP_REQUEST)
        guest.driver.queues[1].kick()
        guest.driver.run()
        sock, _ = listener.accept()
        guest.sockets.append(sock)
        sock.sendall(b"x" * 10)

        guest.driver.run()  # ends only when nothing is ready any more
        guest.collect(again=False)
        assert [packet.op for packet in guest.waiting] == [p.OP_RESPONSE]
        guest.offer(1)

        assert guest.packets()[-1].data == b"x" * 10


def test_data_of_a_program_when_buffers_are_odd_is_cut_to_them() -> None:
    with VsockGuest(buffers=4, room=7) as guest:
        sock = guest.connection()
        sock.sendall(b"0123456789")

        assert [packet.data for packet in guest.packets()] == [b"0123456", b"789"]


def test_data_both_ways_when_two_connections_are_open_stays_apart() -> None:
    with VsockGuest() as guest:
        listener = guest.listen()
        socks = []
        for port in (1, 2):
            guest.send(p.OP_REQUEST, port=port)
            socks.append(listener.accept()[0])
        guest.sockets += socks
        guest.packets()

        guest.send(p.OP_RW, b"from one", port=1)
        guest.send(p.OP_RW, b"from two", port=2)
        socks[0].sendall(b"to one")
        socks[1].sendall(b"to two")

        assert [sock.recv(100) for sock in socks] == [b"from one", b"from two"]
        assert {(packet.guest_port, packet.data) for packet in guest.packets()} == {
            (1, b"to one"),
            (2, b"to two"),
        }


def test_counters_when_they_pass_32_bits_wrap() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        connection = _connection(guest)
        connection._tx_cnt = guest.fwd_cnt = 0xFFFF_FFF0
        connection._fwd_cnt = connection._told_fwd_cnt = 0xFFFF_FFF0
        guest.send(p.OP_CREDIT_UPDATE)
        sock.sendall(bytes(64))
        (data,) = guest.packets()
        guest.fwd_cnt = 0x30
        guest.send(p.OP_RW, bytes(32))
        guest.send(p.OP_CREDIT_REQUEST)

        (update,) = guest.packets()
        assert (data.size, connection.credit, update.fwd_cnt) == (64, guest.buf_alloc, 16)


# A program that is slow to accept


def test_burst_of_the_guests_against_a_short_backlog_is_granted_and_all_data_arrives_in_order() -> None:
    with VsockGuest() as guest:
        listener = guest.listen(backlog=0)

        for port in range(10):
            guest.send(p.OP_REQUEST, port=port)
            guest.send(p.OP_RW, b"from %d" % port, port=port)
        ops = guest.ops()
        waiting = [one for one in guest.device.connections.values() if one.connecting]
        got = []
        for _ in range(10):
            guest.driver.run(lambda: select.select([listener], [], [], 0)[0])
            sock, _ = listener.accept()
            guest.sockets.append(sock)
            got.append(guest.sink(sock, 6))
            sock.sendall(b"answer")
        assert guest.receive(60) == b"answer" * 10

        assert ops == [p.OP_RESPONSE] * 10
        assert len(waiting) == 9
        assert got == [b"from %d" % port for port in range(10)]


def test_guest_when_it_closes_before_the_program_accepts_loses_nothing_it_sent() -> None:
    with VsockGuest() as guest:
        listener = guest.listen(backlog=0)
        for port, data in ((1, b""), (2, b"all of it"), (3, b"")):
            guest.send(p.OP_REQUEST, port=port)
            guest.send(p.OP_RW, data, port=port)
            guest.send(p.OP_SHUTDOWN, port=port, flags=p.SHUTDOWN_BOTH)
            guest.send(p.OP_RST, port=port)
        known = list(guest.device.connections)
        got = []
        for _ in range(3):
            guest.driver.run(lambda: select.select([listener], [], [], 0)[0])
            with listener.accept()[0] as sock:
                guest.driver.run()
                got.append((sock.recv(100), sock.recv(100)))
        guest.driver.run(lambda: not guest.device._lingering)

        assert known == []
        assert got == [(b"", b""), (b"all of it", b""), (b"", b"")]


def test_guest_when_the_program_leaves_without_accepting_is_told() -> None:
    with VsockGuest() as guest:
        listener = guest.listen(backlog=0)
        guest.send(p.OP_REQUEST, port=1)
        guest.send(p.OP_REQUEST, port=2)
        guest.send(p.OP_REQUEST, port=3)
        guest.send(p.OP_SHUTDOWN, port=3, flags=p.SHUTDOWN_BOTH)
        guest.send(p.OP_RST, port=3)
        guest.packets()
        listener.close()

        found: list[tuple[int, int]] = []
        guest.driver.run(
            lambda: [found.extend((one.guest_port, one.op) for one in guest.packets()), len(found) >= 2][1]
        )

        assert (2, p.OP_RST) in found
        assert not guest.device._lingering


def test_reset_of_the_driver_when_connections_wait_for_the_program_forgets_them() -> None:
    with VsockGuest() as guest:
        listener = guest.listen(backlog=0)
        for port in range(3):
            guest.send(p.OP_REQUEST, port=port)

        guest.driver.reset()
        listener.accept()[0].close()
        guest.driver.run()

        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


# The end of a connection


def test_program_when_it_stops_sending_half_closes_and_still_receives() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        sock.sendall(b"last")
        sock.shutdown(socket.SHUT_WR)

        data, shut = guest.packets()
        guest.send(p.OP_RW, b"answer")

        assert (data.data, shut.op, shut.flags) == (b"last", p.OP_SHUTDOWN, p.SHUTDOWN_SEND)
        assert sock.recv(100) == b"answer"


def test_guest_when_it_stops_sending_half_closes_and_still_receives() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()

        guest.send(p.OP_RW, b"last")
        guest.send(p.OP_SHUTDOWN, flags=p.SHUTDOWN_SEND)
        received = sock.recv(100), sock.recv(100)
        sock.sendall(b"answer")

        assert received == (b"last", b"")
        assert [packet.data for packet in guest.packets()] == [b"answer"]


def test_guest_when_it_closes_is_confirmed_by_a_reset_and_the_program_told() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()

        guest.send(p.OP_SHUTDOWN, flags=p.SHUTDOWN_BOTH)

        assert guest.ops() == [p.OP_RST]
        assert sock.recv(1) == b""
        assert not guest.device.connections


def test_guest_when_it_closes_with_data_kept_is_confirmed_after_the_last_byte() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        sent = _fill(guest)

        guest.send(p.OP_SHUTDOWN, flags=p.SHUTDOWN_BOTH)
        before = guest.ops()
        data = guest.sink(sock, len(sent))

        assert p.OP_RST not in before
        assert data == sent and sock.recv(1) == b""
        assert guest.ops()[-1] == p.OP_RST


def test_guest_when_it_gives_up_waiting_loses_nothing_it_sent() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        sent = _fill(guest)

        guest.send(p.OP_SHUTDOWN, flags=p.SHUTDOWN_BOTH)
        guest.send(p.OP_RST)
        gone = not guest.device.connections

        assert gone and guest.sink(sock, len(sent)) == sent
        guest.driver.run()
        assert sock.recv(1) == b"" and not guest.device._lingering


def test_program_when_it_closes_is_told_to_the_guest_which_confirms() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        sock.sendall(b"bye")
        sock.close()

        data, shut = guest.packets()
        guest.send(p.OP_RST)

        assert (data.data, shut.op, shut.flags) == (b"bye", p.OP_SHUTDOWN, p.SHUTDOWN_BOTH)
        assert not guest.device.connections and guest.ops() == []


def test_program_when_it_dies_in_the_middle_of_the_guests_data_ends_the_connection() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        guest.send(p.OP_RW, bytes(1000))
        sock.close()  # unread data: the host's kernel calls that a reset
        guest.send(p.OP_RW, bytes(1000))

        ops = guest.ops()
        assert p.OP_RST in ops or p.OP_SHUTDOWN in ops
        guest.send(p.OP_RW, bytes(1000))
        assert not _fds_open(guest)


def test_program_when_it_closes_while_the_guest_has_no_credit_lets_the_loop_rest() -> None:
    with VsockGuest() as guest:
        guest.buf_alloc = 10
        sock = guest.connection()
        sock.sendall(bytes(100))
        sock.close()

        guest.driver.run()  # ends only when nothing is ready any more
        guest.packets()
        guest.fwd_cnt, guest.buf_alloc = 10, 1000
        guest.send(p.OP_CREDIT_UPDATE)

        data, shut = guest.packets()
        assert (data.size, shut.op, shut.flags) == (90, p.OP_SHUTDOWN, p.SHUTDOWN_BOTH)


def test_connection_when_told_of_a_hang_up_that_was_of_an_earlier_socket_stays() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()

        guest.device._ready(_connection(guest), HANGUP)
        guest.send(p.OP_RW, b"still here")

        assert sock.recv(100) == b"still here" and guest.ops() == []


def test_guest_when_it_stops_receiving_is_not_sent_more() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()

        guest.send(p.OP_SHUTDOWN, flags=p.SHUTDOWN_RECEIVE)

        with pytest.raises(BrokenPipeError):
            sock.sendall(b"nobody reads this")
        assert guest.ops() == []


def test_reset_of_the_driver_when_connections_are_open_ends_them() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        waiting = guest.connect(b"CONN")
        guest.driver.run()

        guest.driver.reset()

        assert (sock.recv(1), waiting.recv(1)) == (b"", b"")
        assert not guest.device.connections


# State


def test_load_when_saved_with_connections_tells_the_driver_that_they_are_gone() -> None:
    with VsockGuest(buffers=16) as guest:
        sock = guest.connection()
        sock.sendall(bytes(3 * ROOM))
        guest.packets()
        queue = guest.driver.queues[vsock.EVENT]
        event = queue.add(writable=[4])
        queue.kick()
        guest.driver.run()
        assert not queue.collect()

        guest.driver.transport.load(guest.driver.transport.save())
        guest.driver.run()

        assert queue.collect() == [event] and queue.data(event) == bytes(4)
        assert sock.recv(1) == b""
        guest.send(p.OP_REQUEST, port=99)  # receive buffers the device held are used again
        assert guest.ops() == [p.OP_RESPONSE]


@needs_root
def test_program_of_another_user_gets_no_connection(capfd: pytest.CaptureFixture[str]) -> None:
    with VsockGuest() as guest, listening(Path(f"{guest.path}_80")):
        guest.send(p.OP_REQUEST)

        assert guest.ops() == [p.OP_RST]
    assert f"user {UID} listens there" in capfd.readouterr().err


# The socket at PATH


def test_path_when_the_device_closes_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "v"
    device = vsock.Vsock(CID, str(path))
    mode = stat.S_IMODE(path.stat().st_mode)

    device.close()
    device.close()

    assert mode == 0o600 and not path.exists()


def test_path_when_nobody_listens_on_it_any_more_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "v"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
        stale.listen()

    device = vsock.Vsock(CID, str(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    device.close()


@pytest.mark.parametrize("what", ["listening", "file", "long", "nowhere"])
def test_path_when_it_cannot_be_had_says_why(tmp_path: Path, what: str) -> None:
    path = tmp_path / "v"
    if what == "file":
        path.write_text("precious")
    elif what == "long":
        path = tmp_path / ("v" * 100)
    elif what == "nowhere":
        path = tmp_path / "no" / "v"
    with socket.socket(socket.AF_UNIX) as other:
        if what == "listening":
            other.bind(str(path))
            other.listen()

        with pytest.raises(DeviceError, match="choose"):
            vsock.Vsock(CID, str(path))
    if what == "file":
        assert path.read_text() == "precious"


# Tracing


def test_describe_when_given_a_packet_says_what_it_is() -> None:
    packet = p.HEADER.pack(3, 2, 1024, 80, 5, 1, p.OP_RW, 0, 4096, 7)
    with VsockGuest() as guest:
        said = guest.device.describe(TX, packet + b"hello")
        short = guest.device.describe(TX, packet[:10])

    assert said == "RW 3:1024 to 2:80, type 1, 5 bytes, flags 0x0, buf_alloc 4096, fwd_cnt 7"
    assert short == "10 bytes, no header"


# The option


def test_words_when_complete_make_the_device(tmp_path: Path) -> None:
    device = make_device(DeviceOptions("vsock", {"cid": "7", "path": str(tmp_path / "v")}))

    assert isinstance(device, vsock.Vsock)
    with FakeDriver(device) as driver:
        assert driver.config(0, 8) == 7


@pytest.mark.parametrize(
    "values", [{}, {"cid": "2", "path": "v"}, {"cid": "x", "path": "v"}, {"cid": "3"}, {"cid": str(1 << 32)}]
)
def test_words_when_wrong_are_refused_and_nothing_is_left(
    values: dict[str, str | bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError, match="--vsock"):
        make_device(DeviceOptions("vsock", values))

    assert not list(tmp_path.iterdir())


def _connection(guest: VsockGuest) -> vsock.Connection:
    (connection,) = guest.device.connections.values()
    return connection


def _fill(guest: VsockGuest) -> bytes:
    """Send until the device has to keep some; what was sent."""
    sent, chunk = b"", os.urandom(32 << 10)
    while not _connection(guest).backlog:
        guest.send(p.OP_RW, chunk)
        sent += chunk
    guest.packets()
    return sent


def _fds_open(guest: VsockGuest) -> bool:
    return any(connection.watched > 0 for connection in guest.device.connections.values())
