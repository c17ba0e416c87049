"""The connection to a vhost-user back end over several machines: one, as long as the back end goes along."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.config import DEVICE_KINDS
from pyvmm.errors import ConfigError
from pyvmm.testing import FakeDriver
from pyvmm.virtio import features as f
from pyvmm.virtio import ids
from pyvmm.virtio.options import make_device
from pyvmm.virtio.vhost import user_protocol as p
from pyvmm.virtio.vhost.back_end_connection import BackEndConnection
from pyvmm.virtio.vhost.channel import connect
from pyvmm.virtio.vhost.frontend import VhostUser
from tests.support.device_process import served

pytestmark = pytest.mark.timeout(60)

BOOTS = 3
#: Requests that set the state of a ring or of the device.
STATE = {p.SET_OWNER, p.RESET_DEVICE, p.SET_FEATURES, p.SET_MEM_TABLE, p.SET_VRING_BASE, p.GET_VRING_BASE}


class Recorder:
    """A back end in a thread that does what it is asked and serves no ring.

    :param protocol: the protocol features that it has
    :param refused: requests to which it says no
    """

    def __init__(self, protocol: int, refused: tuple[int, ...] = ()) -> None:
        self.protocol, self.refused = protocol, refused
        #: Names of requests of STATE, a list a connection.
        self.connections: list[list[str]] = []
        self._threads: list[threading.Thread] = []

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.connections.append([])
        self._threads.append(threading.Thread(target=self._serve, args=(theirs, self.connections[-1])))
        self._threads[-1].start()
        return ours

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _serve(self, sock: socket.socket, seen: list[str]) -> None:
        receiver = p.MessageReceiver(sock)
        with sock:
            try:
                while True:
                    message = receiver.receive(time.monotonic() + 60)
                    assert message is not None
                    if message.request in STATE:
                        seen.append(message.name)
                    self._answer(sock, message)
                    message.close()
            except (p.ProtocolError, OSError):
                pass

    def _answer(self, sock: socket.socket, message: p.Message) -> None:
        answers = {
            p.GET_FEATURES: p.U64.pack(f.COMMON | p.F_PROTOCOL_FEATURES),
            p.GET_PROTOCOL_FEATURES: p.U64.pack(self.protocol),
            p.GET_VRING_BASE: message.payload,
        }
        answer = answers.get(message.request)
        if answer is None and message.flags & p.NEED_REPLY:
            answer = p.U64.pack(message.request in self.refused)
        if answer is not None:
            p.send(sock, message.request, answer, flags=p.REPLY)


@pytest.fixture
def boots() -> Iterator[Callable[[Callable[[], socket.socket]], None]]:
    """Has a machine's driver start the device and leave it, for each boot."""
    kept: list[BackEndConnection] = []

    def run(make: Callable[[], socket.socket]) -> None:
        connection = BackEndConnection(make, "the back end")
        connection.kept = True
        kept.append(connection)
        for _ in range(BOOTS):
            with FakeDriver(VhostUser(connection, ids.ENTROPY, "rng", queues=1, config_size=0)):
                pass

    yield run
    for connection in kept:
        connection.close()


FIRST = ["SET_OWNER", "SET_FEATURES", "SET_MEM_TABLE", "SET_VRING_BASE", "GET_VRING_BASE"]


@pytest.mark.parametrize("protocol", [0, p.PROTOCOL_F_REPLY_ACK])
@pytest.mark.parametrize("reset", [0, p.PROTOCOL_F_RESET_DEVICE])
def test_back_end_sees_one_connection_and_a_reset_for_each_boot(
    boots: Callable[..., None], protocol: int, reset: int
) -> None:
    back_end = Recorder(protocol | reset)

    boots(back_end.connect)

    again = ["RESET_DEVICE"] * bool(reset) + FIRST[1:]
    assert back_end.connections == [FIRST + again * (BOOTS - 1)]


def test_back_end_that_refuses_to_be_reset_has_a_new_connection_and_the_user_is_told(
    boots: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    back_end = Recorder(p.PROTOCOL_F_REPLY_ACK | p.PROTOCOL_F_RESET_DEVICE, refused=(p.RESET_DEVICE,))

    boots(back_end.connect)

    assert back_end.connections == [[*FIRST, "RESET_DEVICE"], [*FIRST, "RESET_DEVICE"], FIRST]
    sentence = "the back end: it refused RESET_DEVICE; the guest's next boot has a new connection to it"
    assert sentence in caplog.text


def test_our_back_end_serves_each_boot_s_memory_on_the_first_one_s_connection(tmp_path: Path) -> None:
    """Its socket is gone after the first connection, which another process uses in the second boot."""
    path = tmp_path / "s"
    connection = BackEndConnection(lambda: connect(str(path)), "the back end")
    connection.kept = True

    def device() -> VhostUser:
        return VhostUser(connection, ids.ENTROPY, "rng", queues=1, config_size=0)

    with served("rng", path=path):
        connection.open()
        path.unlink()
        threads = len(os.listdir("/proc/self/task"))
        for boot in range(BOOTS):
            made = device()
            assert len(os.listdir("/proc/self/task")) == threads, (
                "a fork is safe before the device is attached"
            )
            if boot == 1:
                child = os.fork()
                if not child:
                    try:
                        os._exit(0 if served_in(made) else 2)
                    finally:
                        os._exit(1)
                assert os.waitpid(child, 0)[1] == 0
                made.close()
            else:
                assert served_in(made)
        connection.close()


def served_in(device: VhostUser) -> bool:
    """Whether the device fills a buffer of its driver's."""
    with FakeDriver(device) as driver:
        return any(driver.request(0, writable=[4096]))


def test_options_that_are_wrong_connect_to_nothing() -> None:
    with pytest.raises(ConfigError, match="'speed' is unknown"):
        make_device(DEVICE_KINDS["vhost_user"].parse("/nonexistent,type=rng,speed=9"))
