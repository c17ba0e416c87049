"""Our own devices, saved under stock Linux while there is traffic: they stand still, and nothing is lost."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.config import DEVICE_KINDS
from pyvmm.virtio.options import make_device
from tests.support.namespace import network_namespace
from tests.support.native import volume
from tests.support.shell import Shell

pytestmark = [pytest.mark.hw, pytest.mark.timeout(600)]

HOST, INSIDE = "192.0.2.1", "192.0.2.2"
MIB = 1 << 20
TAP = f"tap,ifname=pvs1,address={HOST}/24,mac=52:54:00:00:00:02"
ROUNDS = 6
#: Seconds between a save and what follows: traffic has time to come.
PAUSE = 0.2


class Guest(Shell):
    """A guest of two CPUs with a tap moved by this process."""

    def __init__(self, folder: Path) -> None:
        net = make_device(DEVICE_KINDS["net"].parse(TAP))
        super().__init__([net], memory="128M", cpus=2, folder=folder)
        self.run(f"ip addr add {INSIDE}/24 dev eth0; ip link set eth0 up")
        self.run(f"until ping -c 1 -W 1 {HOST} >/dev/null; do :; done")

    def save(self, load: bool, meanwhile: Callable[[], object] = lambda: time.sleep(PAUSE)) -> None:
        """Pause, save, do something *meanwhile*, *load* what was saved or not, go on."""
        self.machine.pause()
        assert self.machine.virtio is not None
        transports = [attached.transport for attached in self.machine.virtio.attached]
        states = [transport.save() for transport in transports]
        meanwhile()
        for transport, state in zip(transports, states, strict=True) if load else ():
            transport.load(state)
        self.machine.resume()

    def memory(self) -> int:
        """A checksum of the guest's memory."""
        return zlib.crc32(max(self.machine.memory.regions, key=lambda region: region.size).host.buffer)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with network_namespace():
        guest = Guest(tmp_path_factory.mktemp("save"))
        yield guest
        guest.close()


def test_memory_when_saved_under_traffic_is_the_same_until_the_machine_goes_on(guest: Guest) -> None:
    guest.run(f"(ping -i 0.01 {HOST} >/tmp/replies 2>&1; :) &")
    guest.run("until [ $(grep -c seq= /tmp/replies) -ge 5 ]; do usleep 10000; done")
    sums: list[int] = []

    def look() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sums.append(guest.memory())
            for _ in range(50):
                sock.sendto(bytes(1000), (INSIDE, 9))
            time.sleep(PAUSE)
            sums.append(guest.memory())

    for load in (False, True):
        guest.save(load, look)
    guest.run("killall ping")

    assert (sums[0], sums[2]) == (sums[1], sums[3])


def test_transfer_to_the_guest_goes_on_over_saves_and_loads(guest: Guest) -> None:
    data = os.urandom(MIB) * volume(24)
    begun = threading.Event()

    def serve(server: socket.socket) -> None:
        with server.accept()[0] as out:
            out.sendall(data[:MIB])
            begun.set()
            out.sendall(data[MIB:])

    with served(serve) as port:
        guest.run(f"(nc {HOST} {port} </dev/null | md5sum >/tmp/got; echo over >/tmp/over) &")
        assert begun.wait(60)
        for count in range(ROUNDS):
            guest.save(load=bool(count & 1))
        guest.run("until [ -s /tmp/over ]; do usleep 10000; done; rm /tmp/over", limit=200)

    assert guest.run("cat /tmp/got").split()[0] == hashlib.md5(data).hexdigest()


def test_transfer_from_the_guest_goes_on_over_saves_and_loads(guest: Guest) -> None:
    begun = threading.Event()
    got = hashlib.md5()

    def serve(server: socket.socket) -> None:
        with server.accept()[0] as sock:
            while part := sock.recv(MIB):
                got.update(part)
                begun.set()

    size = volume(24)
    guest.run("dd if=/dev/urandom of=/tmp/seed bs=1M count=1 2>/dev/null")
    repeat = f"for n in $(seq {size}); do cat /tmp/seed; done"
    with served(serve) as port:
        guest.run(f"({repeat} | nc {HOST} {port} >/dev/null; echo over >/tmp/over) &")
        assert begun.wait(60)
        for count in range(ROUNDS):
            guest.save(load=bool(count & 1))
        guest.run("until [ -s /tmp/over ]; do usleep 10000; done; rm /tmp/over", limit=200)

    assert got.hexdigest() == guest.run(f"({repeat}) | md5sum").split()[0]


class served:
    """*serve* gets a listening socket in a thread of its own; the port it is at."""

    def __init__(self, serve: Callable[[socket.socket], object]) -> None:
        self._server = socket.create_server((HOST, 0))
        self._server.settimeout(60)
        self._thread = threading.Thread(target=serve, args=(self._server,))

    def __enter__(self) -> int:
        self._thread.start()
        port: int = self._server.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._thread.join(60)
        self._server.close()
