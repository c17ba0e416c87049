"""passt: how it is asked for, how frames go over its stream; started for real where it is installed."""

from __future__ import annotations

import shutil
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.net.base import NetBackendError
from pyvmm.backends.net.passt import Passt, parse_forwards
from pyvmm.backends.net.tap import open_tap
from pyvmm.errors import ConfigError
from pyvmm.loop import Loop
from pyvmm.virtio.net.device import Net
from tests.support.namespace import network_namespace
from tests.support.net_driver import BROADCAST, NetDriver, frame


class Fake(Passt):
    """The protocol without the program: the test has the other end of the socket."""

    def _run(self, fd: int) -> None:
        self.other = socket.socket(fileno=socket.socket(fileno=fd).detach())
        self.peer = self.other.dup()
        self.other.detach()


@pytest.fixture
def pair() -> object:
    backend = Fake()
    with NetDriver(Net(backend)) as driver:
        backend.peer.setblocking(False)
        yield driver, backend.peer
    backend.peer.close()


def wrapped(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def test_frames_sent_are_preceded_by_their_length(pair: tuple[NetDriver, socket.socket]) -> None:
    driver, peer = pair
    driver.send(frame(100))
    driver.send(frame(14), frame(600))

    assert peer.recv(1 << 20) == wrapped(frame(100)) + wrapped(frame(14) + frame(600))


@pytest.mark.parametrize("piece", [1, 3, 50, 100_000])
def test_frames_come_whole_however_the_stream_is_cut(
    pair: tuple[NetDriver, socket.socket], piece: int
) -> None:
    driver, peer = pair
    frames = [frame(60), frame(1500), frame(61), frame(9000)]
    stream = b"".join(map(wrapped, frames))
    driver.give(*[1000] * 40)
    got = []
    for at in range(0, len(stream), piece):
        peer.send(stream[at : at + piece])
        got += driver.received()

    assert got == frames


def test_many_frames_at_once_are_all_received(pair: tuple[NetDriver, socket.socket]) -> None:
    driver, peer = pair
    driver.give(*[200] * 250)
    peer.send(b"".join(wrapped(frame(60 + n % 50)) for n in range(200)))

    assert driver.received() == [frame(60 + n % 50) for n in range(200)]


def test_frames_when_passt_does_not_read_wait_and_arrive_whole(pair: tuple[NetDriver, socket.socket]) -> None:
    driver, peer = pair
    frames = [frame(60_000 + n) for n in range(100)]
    for one in frames:
        driver.tx.add([bytes(12) + one])
    driver.tx.kick()
    driver.run()
    early = len(driver.tx.collect())
    stream = b""
    while len(stream) < sum(len(one) + 4 for one in frames):
        try:
            stream += peer.recv(1 << 20)
        except BlockingIOError:
            pass
        driver.run()

    assert early < 100
    assert stream == b"".join(map(wrapped, frames))


def test_network_goes_down_when_passt_ends(pair: tuple[NetDriver, socket.socket]) -> None:
    driver, peer = pair
    peer.shutdown(socket.SHUT_RDWR)
    driver.run(lambda: driver.config(6, 2) == 0)

    assert driver.send(frame(60)).done


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tcp",
        "tcp:80",
        "tcp:80:90:x",
        "icmp:1:2",
        "tcp:0:80",
        "tcp:80:65536",
        "tcp:a:b",
        "tcp:1:2+",
        "tcp:²:2",
    ],
)
def test_forward_when_it_is_malformed_says_how_to_write_it(text: str) -> None:
    with pytest.raises(ConfigError, match="write tcp:8080:80"):
        parse_forwards(text)


def test_forwards_when_well_formed_are_understood() -> None:
    one, two = parse_forwards("tcp:8080:80+udp:0.0.0.0:5353:53")

    assert (one.protocol, one.address, one.outside, one.inside) == ("tcp", "127.0.0.1", 8080, 80)
    assert (two.protocol, two.address, two.outside, two.inside) == ("udp", "0.0.0.0", 5353, 53)


def test_passt_when_missing_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    backend = Passt()
    with Loop() as loop:
        with pytest.raises(NetBackendError, match="apt-get install passt"):
            backend.attach(loop)
        backend.close()


def test_passt_answers_for_the_gateway() -> None:
    if shutil.which("passt") is None:
        pytest.skip("there is no passt (Debian: apt-get install passt)")
    asks = bytes.fromhex("0001080006040001") + b"\2" * 6 + bytes(4) + bytes(6) + bytes([10, 0, 2, 2])
    with NetDriver(Net(Passt(), mac=b"\2" * 6)) as driver:
        driver.give(2048)
        driver.send(BROADCAST + b"\2" * 6 + b"\x08\x06" + asks)
        got: list[bytes] = []
        driver.run(lambda: got.extend(driver.received()) or got)

    assert got[0][12:22] == b"\x08\x06" + bytes.fromhex("0001080006040002")


class Guest:
    """A guest behind a real passt, with its host's address; the host's port 15353 leads to its 53."""

    MAC = b"\2" * 6
    ADDRESS, GATEWAY = socket.inet_aton("198.51.100.2"), socket.inet_aton("198.51.100.1")

    def __init__(self, driver: NetDriver) -> None:
        self.driver = driver
        driver.give(*[2048] * 20)
        asks = bytes.fromhex("0001080006040001") + self.MAC + self.ADDRESS + bytes(6) + self.GATEWAY
        driver.send(BROADCAST + self.MAC + b"\x08\x06" + asks)
        self.gateway = self.receive(b"\x08\x06")[6:12]

    def receive(self, mark: bytes) -> bytes:
        """The next frame that has *mark* in it."""
        found: list[bytes] = []
        self.driver.run(lambda: found.extend(one for one in self.driver.received() if mark in one) or found)
        return found[0]

    def send(self, source: int, target: int, data: bytes) -> None:
        """*data* as a datagram to the gateway, from port *source* to port *target*; RFC 768, RFC 791."""
        udp = struct.pack("!HHHH", source, target, 8 + len(data), 0) + data
        ip = struct.pack("!BBHHHBBxx4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, self.ADDRESS, self.GATEWAY)
        total = sum(struct.unpack("!10H", ip))
        total = (total & 0xFFFF) + (total >> 16)
        ip = ip[:10] + struct.pack("!H", 0xFFFF - total) + ip[12:]
        self.driver.send(self.gateway + self.MAC + b"\x08\x00" + ip + udp)


@pytest.fixture
def guest() -> Iterator[Guest]:
    from pyroute2 import IPRoute

    if shutil.which("passt") is None:
        pytest.skip("there is no passt (Debian: apt-get install passt)")
    with network_namespace():
        tap = open_tap("up0", address="198.51.100.2/24")
        with IPRoute() as ip:
            ip.route("add", dst="default", gateway="198.51.100.1")
        backend = Passt(parse_forwards("udp:15353:53"))
        with NetDriver(Net(backend, mac=Guest.MAC)) as driver:
            yield Guest(driver)
        tap.close()


def test_datagram_of_the_guests_to_its_gateway_reaches_the_host_and_is_answered(guest: Guest) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
        program.bind(("127.0.0.1", 0))
        program.settimeout(10)
        port = program.getsockname()[1]
        guest.send(4000, port, b"a question")
        data, peer = program.recvfrom(100)
        program.sendto(b"its answer", peer)
        answer = guest.receive(b"its answer")

    assert data == b"a question"
    assert (answer[26:30], struct.unpack("!HH", answer[34:38])) == (Guest.GATEWAY, (port, 4000))


def test_datagram_to_a_forwarded_port_reaches_the_guest_and_is_answered(guest: Guest) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
        program.settimeout(10)
        program.sendto(b"a question", ("127.0.0.1", 15353))
        source, target = struct.unpack("!HH", guest.receive(b"a question")[34:38])
        guest.send(target, source, b"its answer")

        assert (target, program.recvfrom(100)[0]) == (53, b"its answer")


def test_passt_when_a_port_is_taken_says_why_it_does_not_start() -> None:
    if shutil.which("passt") is None:
        pytest.skip("there is no passt (Debian: apt-get install passt)")
    with socket.create_server(("127.0.0.1", 0)) as taken, Loop() as loop:
        backend = Passt(parse_forwards(f"tcp:{taken.getsockname()[1]}:80"))
        with pytest.raises(NetBackendError, match="passt does not start"):
            backend.attach(loop)
        backend.close()
