"""The console as a UNIX socket."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from pyvmm.backends.base import BackendError
from pyvmm.backends.unix import UnixSocket
from pyvmm.loop import Loop
from tests.support.console import Device, until


@pytest.fixture
def loop():
    with Loop() as loop:
        yield loop


@pytest.fixture
def device():
    return Device(room=1000)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "console")


@pytest.fixture
def backend(loop, device, path):
    backend = UnixSocket(path)
    device.attach(backend, loop)
    yield backend
    backend.close()


@pytest.fixture
def connect(path):
    clients = []

    def connect():
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(20)
        client.connect(path)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()


def test_bytes_pass_both_ways_as_they_are(backend, loop, device, connect):
    client = connect()
    until(loop, lambda: backend.connected)
    every = bytes(range(256))
    client.sendall(every)
    until(loop, lambda: len(device.received) == 256)
    backend.write(every)
    assert client.recv(1000) == every
    assert device.received == every


def test_socket_is_for_this_user_alone(backend, path):
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_second_client_is_told_and_closed_and_the_first_stays(backend, loop, connect):
    first = connect()
    until(loop, lambda: backend.connected)
    second = connect()
    loop.run_once(5)
    assert b"in use" in second.recv(1000)
    assert second.recv(1000) == b""
    backend.write(b"still yours")
    assert first.recv(100) == b"still yours"


def test_client_that_leaves_makes_room_for_the_next(backend, loop, device, connect):
    connect().close()
    until(loop, lambda: not backend.connected and loop.run_once(0) == 0)
    client = connect()
    until(loop, lambda: backend.connected)
    client.sendall(b"next")
    until(loop, lambda: device.received == b"next")


def test_client_that_left_while_the_guest_takes_no_input_makes_room(backend, loop, device, connect):
    device.room = 0
    first = connect()
    first.sendall(b"unread")
    until(loop, lambda: backend.connected and loop.run_once(0) == 0)
    first.close()
    second = connect()
    loop.run_once(5)
    backend.write(b"hello")
    assert second.recv(100) == b"hello"


def test_client_that_does_not_read_stops_the_guest_and_leaving_frees_it(backend, loop, device, connect):
    client = connect()
    until(loop, lambda: backend.connected)
    while backend.ready:
        backend.write(b"x" * 1000)
    loop.run_once(0)
    client.close()
    until(loop, lambda: backend.ready)
    assert device.readied == 1


def test_output_without_a_client_is_dropped(backend):
    backend.write(b"x" * 100)
    assert (backend.dropped, backend.ready) == (100, True)


def test_close_removes_the_socket_and_every_descriptor(loop, device, path, connect):
    backend = UnixSocket(path)
    before = os.listdir("/proc/self/fd")
    device.attach(backend, loop)
    client = connect()
    until(loop, lambda: backend.connected)
    backend.close()
    backend.close()
    assert client.recv(10) == b""
    client.close()
    assert not os.path.exists(path)
    assert os.listdir("/proc/self/fd") == before


def test_close_leaves_a_file_that_took_the_sockets_place(backend, path):
    os.unlink(path)
    with open(path, "w"):
        pass
    backend.close()
    assert os.path.exists(path)


def test_stale_socket_is_replaced(loop, device, path, connect):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    backend = UnixSocket(path)
    device.attach(backend, loop)
    connect()
    until(loop, lambda: backend.connected)
    backend.close()


def test_socket_somebody_listens_on_is_refused_and_left_alone(backend, loop, device, path, connect):
    with pytest.raises(BackendError, match="somebody listens"):
        device.attach(UnixSocket(path), loop)
    connect()
    until(loop, lambda: backend.connected)


def test_file_at_the_path_is_refused_and_left_alone(loop, device, path):
    with open(path, "w") as file:
        file.write("precious")
    with pytest.raises(BackendError, match="is no socket"):
        device.attach(UnixSocket(path), loop)
    with open(path) as file:
        assert file.read() == "precious"


@pytest.mark.parametrize("bad", ["/nonexistent/console", "/tmp/" + "x" * 200])
def test_path_that_cannot_be_is_refused_with_its_name(loop, device, bad):
    with pytest.raises(BackendError, match=bad):
        device.attach(UnixSocket(bad), loop)
