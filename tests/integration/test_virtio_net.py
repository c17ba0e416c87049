"""The network device under Debian's stock kernel: tap, passt, the switch, a link between processes."""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.backends.net.passt import Passt, parse_forwards
from pyvmm.backends.net.pcap import Capture
from pyvmm.backends.net.switch import Switch
from pyvmm.backends.net.tap import open_tap
from pyvmm.virtio.net.device import Net
from tests.support.interface import change, set_speed
from tests.support.namespace import leave_chroot, name_server, network_namespace
from tests.support.native import volume
from tests.support.shell import Shell

LIMIT = 240
pytestmark = [pytest.mark.hw, pytest.mark.timeout(LIMIT + 30)]

HOST, GUEST = "192.0.2.1", "192.0.2.2"
#: What the host's name server says of every name.
NAMED = "203.0.113.9"
MIB = 1 << 20
#: Bytes that go each way with a checksum.
VOLUME = volume(30) * MIB
SECRET = b"only over the wire " * 50


class Traffic:
    """A host's end of TCP connections: sends the same bytes to whom connects, or hashes what it gets."""

    def __init__(self, address: str, serve: Callable[[socket.socket], None]) -> None:
        self.listener = socket.create_server((address, 0))
        self.port = self.listener.getsockname()[1]
        self.done = threading.Event()
        self._serve = serve
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(LIMIT)
            self._serve(connection)
        self.done.set()


class Pages(http.server.BaseHTTPRequestHandler):
    """Every page is the secret."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(SECRET)))
        self.end_headers()
        self.wfile.write(SECRET)

    def log_message(self, format: str, *args: object) -> None:
        pass


def pattern() -> bytes:
    """A MiB that has no period."""
    return b"".join(hashlib.sha256(n.to_bytes(4, "big")).digest() for n in range(MIB // 32))


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    with network_namespace():
        yield


@pytest.fixture(scope="module")
def web(network: None) -> Iterator[int]:
    """The port of a web server on all of the host's addresses."""
    with http.server.ThreadingHTTPServer(("", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


class Tapped:
    """A guest of two CPUs on a tap of two queues, whose MTU of 9000 is the guest's too."""

    def __init__(self, folder: Path) -> None:
        self.capture = folder / "tap.pcap"
        tap = open_tap("pv%d", 2, mtu=9000, address=f"{HOST}/24")
        self.tap = tap.name
        self.net = Net(tap, pairs=2, capture=Capture(str(self.capture), 4 * MIB), seed="tapped")
        self.shell = Shell([self.net], memory="512M", cpus=2)
        self.configure()

    def configure(self) -> None:
        self.shell.run(f"ip addr add {GUEST}/24 dev eth0; ip link set eth0 up")
        self.shell.run(f"until ping -c 1 -W 1 {HOST} >/dev/null; do :; done")


@pytest.fixture(scope="module")
def tapped(network: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tapped]:
    guest = Tapped(tmp_path_factory.mktemp("net"))
    yield guest
    guest.shell.close()


class TestTap:
    def test_ping_goes_through_with_packets_of_the_whole_mtu(self, tapped: Tapped) -> None:
        assert tapped.shell.run("cat /sys/class/net/eth0/mtu") == "9000"
        text = tapped.shell.run(f"ping -c 3 -s 8900 {HOST}")

        assert "3 packets received" in text

    def test_guest_gets_a_page_from_the_host(self, tapped: Tapped, web: int) -> None:
        text = tapped.shell.run(f"wget -q -O - http://{HOST}:{web}/")

        assert text == SECRET.decode().strip()

    def test_host_gets_a_page_from_the_guest(self, tapped: Tapped) -> None:
        tapped.shell.run("mkdir -p /www; echo hello from the guest >/www/page; httpd -p 80 -h /www")

        with urllib.request.urlopen(f"http://{GUEST}/page", timeout=30) as page:
            assert page.read() == b"hello from the guest\n"

    def test_megabytes_from_the_host_arrive_whole(self, tapped: Tapped) -> None:
        block = pattern()
        expected = hashlib.md5(block * (VOLUME // MIB)).hexdigest()

        def serve(connection: socket.socket) -> None:
            for _ in range(VOLUME // MIB):
                connection.sendall(block)

        with Traffic(HOST, serve) as traffic:
            begin = time.monotonic()
            text = tapped.shell.run(f"nc {HOST} {traffic.port} </dev/null | md5sum", 100)
            took = time.monotonic() - begin

        assert text.split()[0] == expected
        print(f"host to guest: {VOLUME / MIB / took:.0f} MiB/s with md5sum")

    def test_megabytes_from_the_guest_arrive_whole(self, tapped: Tapped) -> None:
        digest = hashlib.md5()

        def serve(connection: socket.socket) -> None:
            while data := connection.recv(MIB):
                digest.update(data)

        tapped.shell.run(f"dd if=/dev/urandom of=/tmp/file bs=1M count={VOLUME // MIB} 2>/dev/null", 100)
        with Traffic(HOST, serve) as traffic:
            begin = time.monotonic()
            tapped.shell.run(f"nc {HOST} {traffic.port} </tmp/file", 100)
            assert traffic.done.wait(30)
            took = time.monotonic() - begin

        assert tapped.shell.run("md5sum /tmp/file; rm /tmp/file").split()[0] == digest.hexdigest()
        print(f"guest to host: {VOLUME / MIB / took:.0f} MiB/s")

    def test_both_queues_carry_what_their_cpus_send(self, tapped: Tapped) -> None:
        assert "rx-1" in tapped.shell.run("ls /sys/class/net/eth0/queues")
        before = [sent(tapped.net, pair) for pair in (0, 1)]

        tapped.shell.run(f"taskset 1 ping -c 5 -i 0.1 {HOST}; taskset 2 ping -c 5 -i 0.1 {HOST}")

        after = [sent(tapped.net, pair) for pair in (0, 1)]
        assert all(new - old >= 5 for old, new in zip(before, after, strict=True)), (before, after)

    def test_link_pulled_out_and_plugged_in_is_seen_by_the_guest(self, tapped: Tapped) -> None:
        run = tapped.shell.run
        tapped.net.set_link(False)
        run("until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do usleep 10000; done")
        lost, _ = tapped.shell.status(f"ping -c 1 -W 1 {HOST}")

        tapped.net.set_link(True)
        run("until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do usleep 10000; done")
        run(f"until ping -c 1 -W 1 {HOST}; do :; done")
        assert lost == 1

    def test_tap_set_down_and_up_on_the_host_is_seen_by_the_guest_and_its_speed_too(
        self, tapped: Tapped
    ) -> None:
        run = tapped.shell.run
        before = run("cat /sys/class/net/eth0/speed")
        change(tapped.tap, state="down")
        run("until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do usleep 10000; done")
        set_speed(tapped.tap, 2500, 1)
        change(tapped.tap, state="up")
        run("until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do usleep 10000; done")

        assert before in ("-1", "10000")  # what the tun driver says unasked, which was 10 before Linux 6.3
        assert run("cat /sys/class/net/eth0/speed /sys/class/net/eth0/duplex").split() == ["2500", "full"]
        run(f"until ping -c 1 -W 1 {HOST}; do :; done")

    def test_driver_is_taken_away_and_bound_again_under_traffic(self, tapped: Tapped) -> None:
        over = threading.Event()

        def flood() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                while not over.is_set():
                    try:
                        sender.sendto(bytes(8000), (GUEST, 9))
                    except OSError:
                        pass

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            tapped.shell.run(
                "cd /sys/bus/virtio/drivers/virtio_net; for n in 1 2 3 4 5 6 7 8 9 10; do "
                "echo virtio0 >unbind; echo virtio0 >bind; "
                f"ip addr add {GUEST}/24 dev eth0; ip link set eth0 up; done; cd /",
                100,
            )
        finally:
            over.set()
            thread.join()

        tapped.shell.run(f"until ping -c 1 -W 1 {HOST}; do :; done")

    def test_capture_has_the_frames(self, tapped: Tapped) -> None:
        assert tapped.capture.stat().st_size > MIB
        if shutil.which("tcpdump"):
            command = ["tcpdump", "-n", "-c", "5", "-r", str(tapped.capture), "icmp"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert f"{GUEST} > {HOST}: ICMP echo request" in done.stdout, done


def sent(net: Net, pair: int) -> int:
    """Chains that transmit queue *pair* has completed, modulo 65536."""
    queue = net.runtime.queues[2 * pair + 1]
    return net.memory.read_u16(queue.device + 2)


@pytest.fixture(scope="module")
def upstream(network: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The host has an address and a default route, as a host on a network has."""
    from pyroute2 import IPRoute

    if shutil.which("passt") is None:
        pytest.skip("there is no passt (Debian: apt-get install passt)")
    folder = tmp_path_factory.mktemp("upstream")
    if os.environ.get("PYVMM_LAB"):
        (folder / "root").mkdir()
        leave_chroot(folder / "root")
    name_server("127.0.0.1", folder / "resolv.conf")
    tap = open_tap("up0", address="198.51.100.2/24")
    with IPRoute() as ip:
        ip.route("add", dst="default", gateway="198.51.100.1")
        yield
    tap.close()


@pytest.fixture
def names(upstream: None) -> Iterator[list[bytes]]:
    """The host's name server, which knows every name as NAMED; the questions that it was asked."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))

        def serve() -> None:
            while True:
                data, peer = server.recvfrom(512)
                if not data:
                    return
                end = data.index(b"\0", 12) + 5  # the name's end, type and class; RFC 1035, section 4.1
                asked.append(data[12:end])
                head = struct.pack("!HHHHH", 0x8580, 1, 1, 0, 0)
                record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton(NAMED)
                server.sendto(data[:2] + head + data[12:end] + record, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield asked
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", 53))
        thread.join()


@pytest.fixture(scope="module")
def guest(upstream: None) -> Iterator[Shell]:
    """A guest whose ports 80 (TCP) and 53 (UDP) the host's 18080 and 15353 lead to."""
    shell = Shell(
        [Net(Passt(parse_forwards("tcp:18080:80+udp:15353:53"), host_loopback=True))], memory="512M"
    )
    yield shell
    shell.close()


class TestUser:
    """Without privileges, through passt."""

    def test_guest_gets_a_lease_and_reaches_the_host_through_its_gateway(
        self, guest: Shell, web: int
    ) -> None:
        guest.run("ip link set eth0 up; udhcpc -i eth0 -n -q -t 20 -T 1")

        assert "198.51.100.2" in guest.run("ip addr show dev eth0")
        assert "default via 198.51.100.1" in guest.run("ip route")
        text = guest.run(f"wget -q -O - http://198.51.100.1:{web}/")
        assert text == SECRET.decode().strip()

    def test_guest_finds_names_by_the_hosts_name_server(self, guest: Shell, names: list[bytes]) -> None:
        said = guest.run("cat /etc/resolv.conf; nslookup -type=a pyvmm.test")

        assert "nameserver 198.51.100.1" in said
        assert f"Address: {NAMED}" in said
        assert names == [b"\5pyvmm\4test\0\0\1\0\1"]

    def test_forwarded_port_leads_to_the_guest(self, guest: Shell) -> None:
        guest.run("mkdir -p /www; echo forwarded >/www/page; httpd -p 80 -h /www")

        with urllib.request.urlopen("http://127.0.0.1:18080/page", timeout=30) as page:
            assert page.read() == b"forwarded\n"

    def test_megabytes_arrive_whole_both_ways(self, guest: Shell) -> None:
        block, count = pattern(), volume(20)
        digest = hashlib.md5()

        def give(connection: socket.socket) -> None:
            connection.recv(MIB)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % (count * MIB))
            for _ in range(count):
                connection.sendall(block)

        def take(connection: socket.socket) -> None:
            # By count: passt may keep a half-closed connection's end to itself.
            left = count * MIB
            while left and (data := connection.recv(min(left, MIB))):
                digest.update(data)
                left -= len(data)

        with Traffic("127.0.0.1", give) as traffic:
            got = guest.run(f"wget -q -O - http://198.51.100.1:{traffic.port}/ | md5sum", 100)
        guest.run(f"dd if=/dev/urandom of=/tmp/file bs=1M count={count} 2>/dev/null", 100)
        with Traffic("127.0.0.1", take) as traffic:
            guest.run(f"nc 198.51.100.1 {traffic.port} </tmp/file", 100)
            assert traffic.done.wait(30)

        assert got.split()[0] == hashlib.md5(block * count).hexdigest()
        assert guest.run("md5sum /tmp/file").split()[0] == digest.hexdigest()

    def test_passt_ends_with_its_guest(self, upstream: None) -> None:
        backend = Passt()
        from pyvmm.loop import Loop

        with Loop() as loop:
            backend.attach(loop)
            assert passts()
            backend.close()

        end = time.monotonic() + 10
        while passts() and time.monotonic() < end:
            os.sched_yield()
        assert not passts()


def passts() -> list[str]:
    """The passt processes of this network namespace's children, by command line."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"passt") and b"--one-off" in words and b"18080" not in b" ".join(words):
            found.append(str(place))
    return found


class TestSwitch:
    def test_two_machines_of_one_process_reach_each_other_at_speed(self) -> None:
        switch = Switch("lan")
        # One after the other is up: two boots at a time take as long on a small host.
        first = Shell([Net(switch.port(), seed="one")], memory="256M")
        try:
            second = Shell([Net(switch.port(), seed="two")], memory="256M")
            try:
                first.run("ip addr add 10.1.1.1/24 dev eth0; ip link set eth0 up")
                second.run("ip addr add 10.1.1.2/24 dev eth0; ip link set eth0 up")
                assert "3 packets received" in second.run("ping -c 3 10.1.1.1")
                assert "3 packets received" in first.run("ping -c 3 10.1.1.2")

                first.run(f"dd if=/dev/urandom of=/tmp/file bs=1M count={volume(10)} 2>/dev/null")
                # Either nc ends as soon as one side has nothing more to say: a FIFO never ends.
                second.run("mkfifo /tmp/silence; nc -l -p 99 <>/tmp/silence >/tmp/file &")
                first.run("until nc 10.1.1.2 99 </tmp/file; do usleep 100000; done", 120)
                second.run("wait")
                assert second.run("md5sum </tmp/file") == first.run("md5sum </tmp/file")
            finally:
                second.close()
        finally:
            first.close()


class TestLink:
    def test_two_processes_exchange_a_file_over_a_link(self, tmp_path: Path) -> None:
        path = str(tmp_path / "cable")

        def start(number: int, command: str) -> subprocess.Popen[bytes]:
            up = f"ip addr add 10.2.2.{number}/24 dev eth0; ip link set eth0 up; "
            command = (
                f"{up}until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do usleep 50000; done; {command}"
            )
            words = ["run", "--timeout", str(LIMIT), "--net", f"link:{path}", "--exec", command]
            return subprocess.Popen([sys.executable, "-m", "pyvmm", *words], stdout=subprocess.PIPE)

        first = start(
            1,
            f"dd if=/dev/urandom of=/tmp/f bs=1M count={volume(10)} 2>/dev/null; md5sum </tmp/f; "
            "until nc 10.2.2.2 99 </tmp/f; do usleep 100000; done",
        )
        # It stays until the other has ended: that one's nc waits for the end of the connection.
        gone = "while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do usleep 50000; done"
        second = start(2, f"mkfifo /tmp/silence; nc -l -p 99 <>/tmp/silence | md5sum; {gone}")

        got, sent = second.communicate(timeout=LIMIT)[0], first.communicate(timeout=LIMIT)[0]

        assert len(sent) > 32 and got == sent, (sent, got)
        assert (first.returncode, second.returncode) == (0, 0)
