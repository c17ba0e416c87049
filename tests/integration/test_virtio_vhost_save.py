"""Devices of the host kernel's vhost, saved and continued: by the fake driver, and under stock Linux."""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.config import DEVICE_KINDS
from pyvmm.testing import FakeDriver
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.options import make_device
from pyvmm.virtio.vsock import packet as p
from tests.support.namespace import network_namespace
from tests.support.native import program, volume
from tests.support.net_driver import BROADCAST, HEADER, NetDriver
from tests.support.shell import Shell

pytestmark = [pytest.mark.hw, pytest.mark.timeout(400)]

HOST, INSIDE = "192.0.2.1", "192.0.2.2"
CID = 78
MIB = 1 << 20
TAP = f"tap,ifname=pvs0,queues=2,address={HOST}/24,mac=52:54:00:00:00:01,vhost"
MAC = bytes.fromhex("525400000001")
_ports = itertools.count(5000)


def device(kind: str, text: str) -> VirtioDevice:
    return make_device(DEVICE_KINDS[kind].parse(text))


# By the fake driver


def greet(driver: FakeDriver, cid: int) -> None:
    """A connection to the host's AF_VSOCK, and a word there and back."""
    port, receive, transmit = next(_ports), driver.queues[0], driver.queues[1]
    for _ in range(8):
        receive.add(writable=[p.HEADER_SIZE, 4096])
    receive.kick()
    found: list[tuple[int, bytes]] = []

    def post(op: int, data: bytes = b"") -> None:
        fields = cid, p.CID_HOST, port, port, len(data), p.TYPE_STREAM, op, 0, MIB, 0
        transmit.add([p.HEADER.pack(*fields), *([data] if data else [])])
        transmit.kick()

    def arrived() -> bool:
        transmit.collect()
        for request in receive.collect():
            data = receive.data(request)
            fields = p.HEADER.unpack(data[: p.HEADER_SIZE])
            if fields[3] == port and fields[6] != p.OP_CREDIT_UPDATE:  # which comes when the host likes
                found.append((fields[6], data[p.HEADER_SIZE :]))
        return bool(found)

    with socket.socket(socket.AF_VSOCK) as listener:
        listener.bind((socket.VMADDR_CID_ANY, port))
        listener.listen()
        listener.settimeout(20)
        post(p.OP_REQUEST)
        driver.run(arrived)
        assert found.pop()[0] == p.OP_RESPONSE
        with listener.accept()[0] as connection:
            connection.settimeout(20)
            post(p.OP_RW, b"to the host")
            assert connection.recv(100) == b"to the host"
            connection.sendall(b"to the guest")
            driver.run(arrived)
            assert found.pop() == (p.OP_RW, b"to the guest")


def test_vsock_when_loaded_by_a_fresh_device_serves_on_and_says_that_connections_are_gone() -> None:
    with FakeDriver(device("vsock", "91,vhost")) as driver:
        event = driver.queues[2].add(writable=[4])
        driver.queues[2].kick()
        greet(driver, 91)
        driver.run()
        assert not driver.queues[2].collect()

        driver.replace(lambda: device("vsock", "92,vhost"), driver.transport.save())

        assert driver.queues[2].collect() == [event] and driver.queues[2].data(event) == bytes(4)
        assert driver.config(0, 8) == 92
        greet(driver, 92)


def test_vsock_when_saved_goes_on_itself() -> None:
    with FakeDriver(device("vsock", "91,vhost")) as driver:
        greet(driver, 91)
        first = driver.transport.save()
        second = driver.transport.save()
        driver.transport.resume()

        greet(driver, 91)

    assert first == second


@pytest.fixture
def network() -> Iterator[None]:
    with network_namespace():
        yield


def who_has(driver: NetDriver, pair: int) -> None:
    """Ask the host's kernel for its address, by queue pair *pair*; the answer may come by any."""
    transmit = driver.queues[2 * pair + 1]
    answers: list[bytes] = []
    for index in (0, 2):
        for _ in range(32):  # the host's kernel has more to say than the answer
            driver.queues[index].add(writable=[2048])
        driver.queues[index].kick()
    address = socket.inet_aton(INSIDE)
    asks = bytes.fromhex("0001080006040001") + MAC + address + bytes(6) + socket.inet_aton(HOST)
    transmit.add([bytes(HEADER), BROADCAST + MAC + b"\x08\x06" + asks])
    transmit.kick()

    def answered() -> bool:
        for index in (0, 2):
            queue = driver.queues[index]
            answers.extend(queue.data(request)[HEADER:] for request in queue.collect())
        transmit.collect()
        return any(answer[12:22] == b"\x08\x06" + bytes.fromhex("0001080006040002") for answer in answers)

    driver.run(answered)


def test_net_when_loaded_by_a_fresh_device_has_its_queue_pairs_and_serves_on(network: None) -> None:
    with NetDriver(device("net", TAP)) as driver:
        assert driver.command(4, 0, struct.pack("<H", 2)) == 0
        for pair in (0, 1):
            who_has(driver, pair)

        driver.replace(lambda: device("net", TAP), driver.transport.save())

        state = driver.transport.save()["device"]
        assert isinstance(state, dict) and state["own"]["pairs"] == 2
        driver.transport.resume()
        for pair in (0, 1):
            who_has(driver, pair)


# Under Linux


class Guest(Shell):
    """A guest of two CPUs with the kernel's network and the kernel's sockets."""

    def __init__(self, folder: Path) -> None:
        devices = [device("net", TAP), device("vsock", f"{CID},vhost")]
        super().__init__(devices, memory="512M", cpus=2, programs={"vsock": program("vsock")}, folder=folder)
        self.run(f"ip addr add {INSIDE}/24 dev eth0; ip link set eth0 up")
        self.run(f"until ping -c 1 -W 1 {HOST} >/dev/null; do :; done")

    def save_and_load(self) -> None:
        """Every vhost device, while nothing runs."""
        self.machine.pause()
        assert self.machine.virtio is not None
        for attached in self.machine.virtio.attached:
            if attached.device.external:
                attached.transport.load(attached.transport.save())
        self.machine.resume()


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with network_namespace():
        guest = Guest(tmp_path_factory.mktemp("vhost"))
        yield guest
        guest.close()


def test_transfer_over_vhost_net_goes_on_over_loads(guest: Guest) -> None:
    data = os.urandom(MIB) * volume(32)
    wanted = hashlib.md5(data).hexdigest()
    begun = threading.Event()

    with socket.create_server((HOST, 0)) as server:
        server.settimeout(60)

        def serve() -> None:
            with server.accept()[0] as out:
                out.sendall(data[:MIB])
                begun.set()
                out.sendall(data[MIB:])

        thread = threading.Thread(target=serve)
        thread.start()
        guest.run(f"(nc {HOST} {server.getsockname()[1]} </dev/null >/tmp/got; echo over >/tmp/over) &")
        assert begun.wait(60)
        for _ in range(3):
            guest.save_and_load()
        guest.run("until [ -s /tmp/over ]; do usleep 10000; done", limit=120)
        thread.join(60)

    size = int(guest.run("wc -c </tmp/got"))
    assert (size, guest.run("md5sum </tmp/got").split()[0]) == (len(data), wanted)


def test_connections_of_vhost_vsock_are_reset_by_a_load_and_new_ones_work(guest: Guest) -> None:
    guest.run("(vsock listen 1009 </dev/zero >/dev/null 2>&1; echo over >/tmp/ended) &")
    with guest.reach_vsock(CID, 1009):
        guest.save_and_load()

        guest.run("until [ -s /tmp/ended ]; do usleep 10000; done")
    guest.run("vsock echo 7 &")
    with guest.reach_vsock(CID, 7) as sock:
        sock.sendall(b"again")
        assert sock.recv(100) == b"again"
