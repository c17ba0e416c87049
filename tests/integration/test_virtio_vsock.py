"""Linux's own vsock driver against the device: both directions, ends of all kinds, load. Needs hardware."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.arch import native
from pyvmm.virtio.vsock.device import SPACE, Vsock
from tests.support.native import program, volume
from tests.support.shell import Shell

pytestmark = [pytest.mark.hw, pytest.mark.timeout(400)]

CID = 42
MIB = 1 << 20
#: Bytes that are echoed with a checksum.
VOLUME = volume(10) * MIB
#: Seconds one step gets.
LIMIT = 60


class Guest(Shell):
    """A guest with a vsock device, and programs on the host that talk to it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "v")
        self.device = Vsock(CID, self.path)
        super().__init__([self.device], programs={"vsock": program("vsock")}, folder=folder)

    def connect(self, port: int) -> socket.socket:
        """A connection to the guest's *port*."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(LIMIT)
        sock.connect(self.path)
        sock.sendall(b"CONNECT %d\n" % port)
        line = b""
        while not line.endswith(b"\n"):
            part = sock.recv(1)
            if not part:
                sock.close()
                raise ConnectionRefusedError(port)
            line += part
        assert line.startswith(b"OK ")
        return sock

    def listening(self, port: int) -> socket.socket:
        """A connection to the guest's *port*, on which a program is about to listen."""
        return self.reach(lambda: self.connect(port))

    def serve(
        self,
        port: int,
        handle: Callable[[socket.socket], object],
        times: int = 1,
        *,
        backlog: int = 128,
        accept_at: Callable[[], bool] = lambda: True,
    ) -> threading.Thread:
        """*handle* the next *times* connections of the guest's to *port*, each in a thread.

        They are accepted once *accept_at* holds.
        """
        place = f"{self.path}_{port}"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(place)
        listener.listen(backlog)
        listener.settimeout(LIMIT)

        def one(sock: socket.socket) -> None:
            with sock:
                sock.settimeout(LIMIT)
                handle(sock)

        def accept() -> None:
            end = time.monotonic() + LIMIT
            while not accept_at() and time.monotonic() < end:
                time.sleep(0.01)
            with listener:
                threads = []
                for _ in range(times):
                    threads.append(threading.Thread(target=one, args=(listener.accept()[0],)))
                    threads[-1].start()
                for thread in threads:
                    thread.join()
            os.unlink(place)

        thread = threading.Thread(target=accept)
        thread.start()
        return thread


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    guest = Guest(tmp_path_factory.mktemp("vsock"))
    guest.run("vsock echo 7 &")
    guest.listening(7).close()
    yield guest
    guest.close()


def echo(sock: socket.socket) -> None:
    while data := sock.recv(1 << 16):
        sock.sendall(data)


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while data := sock.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


def test_guest_when_asked_knows_its_cid(guest: Guest) -> None:
    assert guest.run("vsock cid") == str(CID)


def test_host_when_it_connects_to_the_guest_gets_its_echo(guest: Guest) -> None:
    with guest.connect(7) as sock:
        sock.sendall(b"hello guest")
        sock.shutdown(socket.SHUT_WR)

        assert read_all(sock) == b"hello guest"


def test_guest_when_it_connects_to_the_host_gets_its_echo(guest: Guest) -> None:
    served = guest.serve(1000, echo)

    assert guest.run("echo hello host | vsock connect 1000") == "hello host"
    served.join()


def test_guest_when_nobody_listens_on_the_host_is_refused_at_once(guest: Guest) -> None:
    status, text = guest.status("vsock connect 1001 < /dev/null", 10)

    assert status == 1 and "cannot connect" in text


def test_host_when_nobody_listens_in_the_guest_is_refused_at_once(guest: Guest) -> None:
    with pytest.raises(ConnectionRefusedError):
        guest.connect(1002)


def test_megabytes_when_echoed_by_the_guest_come_back_whole(guest: Guest) -> None:
    data = os.urandom(VOLUME)
    with guest.connect(7) as sock:

        def send() -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = read_all(sock)
        sender.join()

    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


def test_megabytes_when_echoed_by_the_host_come_back_whole(guest: Guest) -> None:
    served = guest.serve(1003, echo)
    guest.run(f"dd if=/dev/urandom of=/tmp/a bs=64k count={VOLUME >> 16}")

    guest.run("vsock connect 1003 < /tmp/a > /tmp/b")
    served.join()

    assert guest.run("wc -c < /tmp/b") == str(VOLUME)
    guest.run("cmp /tmp/a /tmp/b; rm /tmp/a /tmp/b")


@pytest.mark.skipif(not native.chips.READS_SNOOP, reason="reads of registers are exits on this architecture")
def test_interrupts_when_packets_pass_cost_no_exits(guest: Guest) -> None:
    guest.machine.pause()  # KVM gives out the counters between two KVM_RUN
    statistics = guest.machine.vcpus[0].vcpu.statistics()
    guest.machine.resume()
    with statistics, guest.connect(7) as sock:
        before = statistics.read()
        for _ in range(100):
            sock.sendall(b"x" * 1000)
            left = 1000
            while left:
                part = sock.recv(left)
                assert part
                left -= len(part)
        after = statistics.read()

    assert after["irq_injections"] - before["irq_injections"] > 100
    assert after["mmio_exits"] - before["mmio_exits"] < 20, "two an interrupt are what it was told to spare"


def test_many_connections_when_open_at_once_stay_apart(guest: Guest) -> None:
    socks = [guest.connect(7) for _ in range(60)]
    for number, sock in enumerate(socks):
        sock.sendall(b"%d" % number)
        sock.shutdown(socket.SHUT_WR)
    answers = [read_all(sock) for sock in socks]
    for sock in socks:
        sock.close()

    assert answers == [b"%d" % number for number in range(60)]


def test_many_connections_when_the_guest_begins_them_stay_apart(guest: Guest) -> None:
    served = guest.serve(1004, echo, times=30)

    text = guest.run("for i in $(seq 30); do echo $i | vsock connect 1004 & done | sort -n | tr '\\n' ' '")
    served.join()

    assert text.split() == [str(number) for number in range(1, 31)]


def test_burst_when_the_program_has_no_backlog_and_accepts_late_is_served_whole(guest: Guest) -> None:
    """The guest's connect gives up after 2 s (VSOCK_DEFAULT_CONNECT_TIMEOUT of Linux)."""
    begins: list[float] = []

    def late() -> bool:
        if len(guest.device.connections) >= 10:
            begins.append(time.monotonic())
        return bool(begins) and time.monotonic() - begins[0] > 3

    served = guest.serve(1010, echo, times=10, backlog=0, accept_at=late)

    text = guest.run("for i in $(seq 10); do echo $i | vsock connect 1010 & done | sort -n | tr '\\n' ' '")
    served.join()

    assert text.split() == [str(number) for number in range(1, 11)]


def test_host_when_it_half_closes_still_gets_the_answer(guest: Guest) -> None:
    guest.run("mkfifo /tmp/f; (vsock listen 1005 < /tmp/f | sha256sum > /tmp/f) &")
    with guest.listening(1005) as sock:
        sock.sendall(b"all there is")
        sock.shutdown(socket.SHUT_WR)

        answer = read_all(sock).decode()

    assert answer.split() == [hashlib.sha256(b"all there is").hexdigest(), "-"]


def test_guest_when_the_host_program_dies_in_the_middle_is_told(guest: Guest) -> None:
    served = guest.serve(1006, lambda sock: sock.recv(1000))

    status, text = guest.status("cat /dev/zero | vsock connect 1006", 30)
    served.join()

    assert "no end" not in text and status in (0, 1)
    with guest.connect(7) as sock:  # and the device goes on
        sock.sendall(b"still there")
        assert sock.recv(100) == b"still there"


def test_host_program_when_the_guests_one_is_killed_sees_the_end(guest: Guest) -> None:
    guest.run("vsock listen 1007 < /dev/null > /dev/null & echo $! > /tmp/pid")
    with guest.listening(1007) as sock:
        guest.run("kill -9 $(cat /tmp/pid)")

        assert sock.recv(10) == b""


def test_slow_host_program_when_the_guest_floods_it_keeps_the_memory_bounded(guest: Guest) -> None:
    go = threading.Event()
    sizes: list[int] = []

    def slow(sock: socket.socket) -> None:
        assert go.wait(LIMIT)
        sizes.append(len(read_all(sock)))

    served = guest.serve(1008, slow)
    guest.run("(head -c 4m /dev/zero | vsock connect 1008; echo done > /tmp/flooded) &")
    kept = [0, 0]
    end = time.monotonic() + LIMIT
    while kept[-1] == 0 or kept[-1] != kept[-2]:  # until it stands still
        assert time.monotonic() < end, kept
        guest.run("usleep 50000")
        kept.append(max((c.backlog for c in guest.device.connections.values()), default=0))
    go.set()
    served.join()

    assert max(kept) <= SPACE and sizes == [4 * MIB]
    guest.run("until [ -s /tmp/flooded ]; do usleep 10000; done")


def test_load_when_the_guest_has_connections_resets_them_and_new_ones_work(guest: Guest) -> None:
    guest.run("(vsock listen 1009 < /dev/zero > /dev/null 2>&1; echo over > /tmp/over) &")
    with guest.listening(1009):
        guest.machine.pause()
        assert guest.machine.virtio is not None
        (attached,) = (one for one in guest.machine.virtio.attached if one.name == "vsock0")
        attached.transport.load(attached.transport.save())
        guest.machine.resume()

        guest.run("until [ -s /tmp/over ]; do usleep 10000; done")
    with guest.connect(7) as sock:
        sock.sendall(b"again")
        assert sock.recv(100) == b"again"


def test_driver_when_unbound_and_bound_in_a_loop_comes_back(guest: Guest) -> None:
    driver = "/sys/bus/virtio/drivers/vmw_vsock_virtio_transport"
    guest.run(f"basename {driver}/virtio* > /tmp/name")
    for _ in range(10):
        guest.run(f"cat /tmp/name > {driver}/unbind; cat /tmp/name > {driver}/bind")

    guest.run("killall vsock; vsock echo 8 &")
    with guest.listening(8) as sock:
        sock.sendall(b"back")
        assert sock.recv(100) == b"back"
