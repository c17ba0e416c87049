"""passt: how it is asked for, how frames go over its stream; started for real where it is installed."""

from __future__ import annotations

import shutil
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.net import passt
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

    def send(self, source: int, target: int, data: bytes, to: bytes = GATEWAY) -> None:
        """*data* as a datagram to address *to*, from port *source* to port *target*; RFC 768."""
        self.send_ip(17, struct.pack("!HHHH", source, target, 8 + len(data), 0) + data, to)

    def send_tcp(self, segment: bytes, flags: int, sequence: int, data: bytes = b"") -> None:
        """Answer *segment*, an IP packet from the gateway with a TCP segment, which ends there; RFC 9293."""
        source, target, theirs = struct.unpack_from("!HHI", segment, 20)
        size = len(segment) - 20 - (segment[32] >> 4) * 4 + bool(segment[33] & 2)  # SYN counts as one
        tcp = struct.pack("!HHIIBBHHH", target, source, sequence, theirs + size, 0x50, flags, 65535, 0, 0)
        tcp += data
        pseudo = self.ADDRESS + self.GATEWAY + struct.pack("!HH", 6, len(tcp)) + tcp + bytes(len(tcp) % 2)
        self.send_ip(6, tcp[:16] + checksum(pseudo) + tcp[18:], self.GATEWAY)

    def send_ip(self, protocol: int, body: bytes, to: bytes) -> None:
        """A packet to address *to*; RFC 791."""
        head = (0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0, self.ADDRESS, to)
        ip = struct.pack("!BBHHHBBH4s4s", *head)
        self.driver.send(self.gateway + self.MAC + b"\x08\x00" + ip[:10] + checksum(ip) + ip[12:] + body)


def checksum(data: bytes) -> bytes:
    """Of an even number of bytes; RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", 0xFFFF - total)


@pytest.fixture
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """Its parameter, if there is one: whether it reaches the host's loopback."""
    from pyroute2 import IPRoute

    if shutil.which("passt") is None:
        pytest.skip("there is no passt (Debian: apt-get install passt)")
    with network_namespace():
        tap = open_tap("up0", address="198.51.100.2/24")
        with IPRoute() as ip:
            ip.route("add", dst="default", gateway="198.51.100.1")
        backend = Passt(
            parse_forwards("udp:15353:53+tcp:15380:15381"), host_loopback=getattr(request, "param", False)
        )
        with NetDriver(Net(backend, mac=Guest.MAC)) as driver:
            yield Guest(driver)
        tap.close()


@pytest.mark.parametrize("guest", [True], indirect=True)
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


LOOPBACK = ["198.51.100.1", "127.0.0.1", "127.255.0.1", "0.0.0.0"]  # the first one is the gateway


@pytest.mark.parametrize("to", LOOPBACK)
def test_datagram_of_the_guests_does_not_reach_the_hosts_loopback(guest: Guest, to: str) -> None:
    kinds = socket.AF_INET, socket.SOCK_DGRAM
    with socket.socket(*kinds) as inner, socket.socket(*kinds) as outer:
        inner.bind(("127.255.0.1" if to == "127.255.0.1" else "127.0.0.1", 0))
        inner.setblocking(False)
        outer.bind(("198.51.100.2", 0))
        outer.settimeout(60)
        guest.send(4000, inner.getsockname()[1], b"to the loopback", socket.inet_aton(to))
        guest.send(4000, outer.getsockname()[1], b"to the host", guest.ADDRESS)

        assert outer.recv(100) == b"to the host"  # passt has carried the other one before
        with pytest.raises(BlockingIOError):
            inner.recv(100)


IPV4, IPV6 = b"\x08\x00" + bytes(16), b"\x86\xdd" + bytes(24)


@pytest.mark.parametrize("pieces", [[], [12], [12, 26], [13, 45, 46], [*range(1, 70)]])
@pytest.mark.parametrize(
    ("family", "to", "passes"),
    [
        (socket.AF_INET, "127.0.0.1", False),
        (socket.AF_INET, "0.0.0.0", False),
        (socket.AF_INET, "128.0.0.1", True),
        (socket.AF_INET, "1.0.0.1", True),
        (socket.AF_INET6, "::1", False),
        (socket.AF_INET6, "::", False),
        (socket.AF_INET6, "::127.0.0.1", False),
        (socket.AF_INET6, "::ffff:127.0.0.1", False),
        (socket.AF_INET6, "2001:db8::1", True),
        (socket.AF_INET6, "fe80::1", True),
    ],
)
def test_packet_to_the_hosts_loopback_is_dropped_however_it_lies_in_memory(
    pair: tuple[NetDriver, socket.socket], family: int, to: str, passes: bool, pieces: list[int]
) -> None:
    driver, peer = pair
    sent = (
        bytes(12) + (IPV4 if family == socket.AF_INET else IPV6) + socket.inet_pton(family, to) + b"data" * 9
    )
    whole = bytes(12) + sent
    edges = [0, *(edge for edge in pieces if edge < len(whole)), len(whole)]
    driver.tx.add([whole[start:end] for start, end in zip(edges, edges[1:], strict=False)])
    driver.tx.kick()
    driver.run(driver.tx.collect)
    driver.send(frame(60))

    assert peer.recv(1 << 20) == (wrapped(sent) if passes else b"") + wrapped(frame(60))


@pytest.mark.parametrize(
    ("own", "resolved", "options"),
    [
        ("192.0.2.1 127.0.0.53", "192.0.2.9", []),
        ("", "192.0.2.9", []),
        ("127.0.0.53", "192.0.2.9 2001:db8::9", ["--dns", "192.0.2.9", "--dns", "2001:db8::9"]),
        ("127.0.0.53 ::1", "fe80::1%eth0 nonsense 192.0.2.9", ["--dns", "192.0.2.9"]),
        (
            "127.0.0.53",
            "192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4",
            ["--dns", "192.0.2.1", "--dns", "192.0.2.2", "--dns", "192.0.2.3"],
        ),
        ("127.0.0.1", "", []),
    ],
)
def test_name_servers_of_a_host_that_has_its_own_on_the_loopback_are_those_that_this_one_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, resolved: str, options: list[str]
) -> None:
    files = tmp_path / "resolv.conf", tmp_path / "resolved.conf"
    for path, servers in zip(files, (own, resolved), strict=True):
        path.write_text(
            "# nameserver 192.0.2.200\nsearch x\n" + "".join(f"nameserver {one}\n" for one in servers.split())
        )
    monkeypatch.setattr(passt, "_RESOLV_CONF", tuple(map(str, files)))

    assert passt._name_server_options() == options


@pytest.mark.parametrize("guest", [True], indirect=True)  # Debian 12's passt carries no answer else
def test_datagram_to_a_forwarded_port_reaches_the_guest_and_is_answered(guest: Guest) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
        program.settimeout(10)
        program.sendto(b"a question", ("127.0.0.1", 15353))
        source, target = struct.unpack("!HH", guest.receive(b"a question")[34:38])
        guest.send(target, source, b"its answer")

        assert (target, program.recvfrom(100)[0]) == (53, b"its answer")


@pytest.mark.parametrize("guest", [False, True], indirect=True)
def test_connection_to_a_forwarded_port_reaches_the_guest_and_is_answered(guest: Guest) -> None:
    with socket.create_connection(("127.0.0.1", 15380), timeout=60) as program:
        first = guest.receive(struct.pack("!H", 15381))[14:]
        guest.send_tcp(first, 0x12, 1000)  # SYN, ACK
        program.send(b"a question")
        asked = guest.receive(b"a question")[14:]
        guest.send_tcp(asked[: struct.unpack_from("!H", asked, 2)[0]], 0x18, 1001, b"its answer")  # PSH, ACK

        assert (first[9], program.recv(100)) == (6, b"its answer")


def test_passt_when_a_port_is_taken_says_why_it_does_not_start() -> None:
    if shutil.which("passt") is None:
        pytest.skip("there is no passt (Debian: apt-get install passt)")
    with socket.create_server(("127.0.0.1", 0)) as taken, Loop() as loop:
        backend = Passt(parse_forwards(f"tcp:{taken.getsockname()[1]}:80"))
        with pytest.raises(NetBackendError, match="passt does not start"):
            backend.attach(loop)
        backend.close()
