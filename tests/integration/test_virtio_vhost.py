"""Devices that others serve, under stock Linux: virtiofsd, our own back end, the host kernel's vhost."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.config import DEVICE_KINDS
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.net.features import F_CSUM, F_HOST_TSO4, F_MQ
from pyvmm.virtio.options import make_device
from tests.support.device_process import served
from tests.support.namespace import network_namespace
from tests.support.native import program, volume
from tests.support.shell import Shell

pytestmark = [pytest.mark.hw, pytest.mark.timeout(400)]

CID = 77
HOST, INSIDE = "192.0.2.1", "192.0.2.2"
MIB = 1 << 20
#: pytest's folders are root's where root runs it, as in the lab.
AS_ROOT = "" if os.geteuid() else ",as-root"
ODD = b"odd \xff\t'\"$*name"


def device(kind: str, text: str) -> VirtioDevice:
    return make_device(DEVICE_KINDS[kind].parse(text))


class Guest(Shell):
    """A guest with two shared directories, an entropy device of another process, the kernel's vsock."""

    def __init__(self, folder: Path, entropy: Path) -> None:
        self.shared, self.fixed = folder / "shared", folder / "fixed"
        for place in (self.shared, self.fixed):
            place.mkdir()
            (place / "greeting").write_text("hello\n")
        devices = [
            device("share", f"{self.shared}:files{AS_ROOT}"),
            device("share", f"{self.fixed},tag=fixed,ro{AS_ROOT}"),
            device("vhost_user", f"{entropy},type=rng"),
            device("vsock", f"{CID},vhost"),
        ]
        super().__init__(devices, programs={"vsock": program("vsock")}, folder=folder)
        self.run("mkdir /s /f && mount -t virtiofs files /s && mount -t virtiofs fixed /f")
        self.directory = "/s"


@pytest.fixture(scope="module")
def entropy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    path = tmp_path_factory.mktemp("entropy") / "s"
    with served("rng", path=path) as process:
        yield path, process


@pytest.fixture(scope="module")
def guest(
    tmp_path_factory: pytest.TempPathFactory, entropy: tuple[Path, subprocess.Popen[str]]
) -> Iterator[Guest]:
    guest = Guest(tmp_path_factory.mktemp("vhost"), entropy[0])
    yield guest
    guest.close()


def test_file_of_the_hosts_is_read_and_one_of_the_guests_is_there_on_the_host(guest: Guest) -> None:
    assert guest.run("cat /s/greeting") == "hello"
    guest.run("echo from the guest > /s/answer")

    assert (guest.shared / "answer").read_text() == "from the guest\n"


def test_rename_over_a_file_leaves_the_new_one(guest: Guest) -> None:
    guest.run("mkdir a b && echo old > a/f && echo new > b/g && mv b/g a/f && test ! -e b/g")

    assert (guest.shared / "a" / "f").read_text() == "new\n"


def test_file_that_is_open_lives_on_when_it_is_unlinked(guest: Guest) -> None:
    said = guest.run("echo kept > open; exec 3<>open; rm open; test ! -e open && cat <&3; exec 3<&-")

    assert said == "kept"
    assert not (guest.shared / "open").exists()


def test_links_of_both_kinds_lead_to_the_file(guest: Guest) -> None:
    guest.run("echo x > file && ln file hard && ln -s file soft && test $(readlink soft) = file && cat soft")

    assert (guest.shared / "file").stat().st_nlink == 2
    assert (guest.shared / "soft").readlink() == Path("file")


def test_mode_owner_and_times_are_the_files(guest: Guest) -> None:
    guest.run("echo x > modes && chmod 4751 modes && touch -d '2001-02-03 04:05:06' modes")
    found = (guest.shared / "modes").stat()

    assert stat.S_IMODE(found.st_mode) == 0o4751
    assert int(found.st_mtime) == 981173106
    if os.geteuid() == 0:
        guest.run("chown 12:34 modes")
        assert (guest.shared / "modes").stat().st_uid == 12


def test_truncate_shortens_and_lengthens(guest: Guest) -> None:
    said = guest.run("echo 0123456789 > t && truncate -s 4 t && cat t && truncate -s 1000000 t && wc -c < t")

    assert said == "01231000000"
    assert (guest.shared / "t").read_bytes() == b"0123" + bytes(999996)


def test_program_in_the_directory_runs_from_its_mapped_pages(guest: Guest) -> None:
    assert guest.run("cp /bin/busybox . && ./busybox echo mapped") == "mapped"


def test_directory_of_many_files_is_listed_whole(guest: Guest) -> None:
    names = [f"file-{number:04}" for number in range(max(200, volume(1000)))]
    place = guest.shared / "many"
    place.mkdir()
    for name in names:
        (place / name).touch()

    wanted = "".join(f"{name}\n" for name in names)
    assert guest.run("ls many | md5sum").split()[0] == hashlib.md5(wanted.encode()).hexdigest()
    guest.run("rm -r many")
    assert not place.exists()


def test_writes_of_two_processes_that_append_are_all_there(guest: Guest) -> None:
    loop = "for i in $(seq 50); do echo line; done"
    guest.run(f"({loop} >> log) & {loop} >> log; wait")

    assert (guest.shared / "log").read_text() == "line\n" * 100


def test_large_file_keeps_its_checksum_both_ways(guest: Guest) -> None:
    data = os.urandom(volume(16) * MIB)
    (guest.shared / "large").write_bytes(data)

    said = guest.run(
        "md5sum < large && dd if=large of=copy bs=64k conv=fsync 2>/dev/null && md5sum < copy", limit=120
    )

    assert said.split()[::2] == [hashlib.md5(data).hexdigest()] * 2
    assert (guest.shared / "copy").read_bytes() == data


def test_names_of_odd_bytes_are_the_same_on_both_sides(guest: Guest) -> None:
    (guest.shared / os.fsdecode(ODD)).write_text("odd\n")
    escaped = "".join(f"\\{byte:03o}" for byte in ODD)
    long = "x" * 255

    said = guest.run(
        f"""cat "$(printf '{escaped}')"; echo long > {long}; echo too > {long}y || echo refused"""
    )

    assert said.startswith("odd\n")
    assert said.endswith("refused")
    assert (guest.shared / long).read_text() == "long\n"


def test_way_out_of_the_directory_is_not_to_be_had(guest: Guest) -> None:
    (guest.shared / "escape").symlink_to("/proc/version")

    assert guest.run("cat escape | cut -c1-5") == "Linux", "a link is the guest's own to follow"
    assert guest.run("ls /s/.. | grep -c proc") == "1", "the root of a mount leads to the guest's own"


def test_read_only_directory_is_read_and_refuses_every_write(guest: Guest) -> None:
    assert guest.run("cat /f/greeting") == "hello"
    for command in ("echo x > /f/new", "echo x >> /f/greeting", "rm /f/greeting", "chmod 0 /f/greeting"):
        status, said = guest.status(command)
        assert status != 0, f"{command}: {said}"

    assert [path.name for path in guest.fixed.iterdir()] == ["greeting"]
    assert (guest.fixed / "greeting").read_text() == "hello\n"


def test_driver_that_is_unbound_and_bound_again_finds_the_directory(guest: Guest) -> None:
    drivers = "/sys/bus/virtio/drivers/virtiofs"
    guest.run(f"umount /f && test -d {drivers}/virtio1")
    for _ in range(5):
        guest.run(f"echo virtio1 > {drivers}/unbind && echo virtio1 > {drivers}/bind")

    assert guest.run("mount -t virtiofs fixed /f && cat /f/greeting") == "hello"


def test_entropy_device_of_another_process_feeds_the_driver(guest: Guest) -> None:
    assert guest.run("dd if=/dev/hwrng bs=512 count=64 2>/dev/null | wc -c") == "32768"


def test_vsock_of_the_hosts_kernel_carries_a_mebibyte_and_back(guest: Guest) -> None:
    guest.run("vsock echo 7 &")
    data = os.urandom(MIB)
    with guest.reach_vsock(CID, 7) as sock:
        got = bytearray()
        for at in range(0, MIB, 1 << 16):
            sock.sendall(data[at : at + (1 << 16)])
            while len(got) < at + (1 << 16):
                got += sock.recv(1 << 16)

    assert got == data


def test_back_end_that_is_killed_leaves_the_guest_running(
    guest: Guest, entropy: tuple[Path, subprocess.Popen[str]]
) -> None:
    entropy[1].send_signal(signal.SIGKILL)
    entropy[1].wait()

    assert guest.run("cat /s/greeting") == "hello"


class Tapped(Shell):
    """A guest of two CPUs on a tap of two queues, its frames moved by the host's kernel."""

    def __init__(self) -> None:
        options = DEVICE_KINDS["net"].parse(f"tap,ifname=pv%d,queues=2,mtu=9000,address={HOST}/24,vhost")
        self.net = make_device(options)
        super().__init__([self.net], memory="512M", cpus=2)
        self.configure()

    def configure(self) -> None:
        self.run(f"ip addr add {INSIDE}/24 dev eth0; ip link set eth0 up")
        self.run(f"until ping -c 1 -W 1 {HOST} >/dev/null; do :; done")


@pytest.fixture(scope="module")
def tapped() -> Iterator[Tapped]:
    with network_namespace():
        guest = Tapped()
        yield guest
        guest.close()


def test_frames_of_vhost_net_keep_their_checksum_both_ways(tapped: Tapped) -> None:
    data = os.urandom(MIB) * volume(32)
    wanted = hashlib.md5(data).hexdigest()
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(60)
        port = server.getsockname()[1]
        results: list[str] = []

        def serve() -> None:
            with server.accept()[0] as out:
                out.sendall(data)
            with server.accept()[0] as back:
                digest = hashlib.md5()
                while part := back.recv(1 << 16):
                    digest.update(part)
            results.append(digest.hexdigest())

        thread = threading.Thread(target=serve)
        thread.start()
        said = tapped.run(f"nc {HOST} {port} </dev/null >/tmp/got; md5sum </tmp/got", limit=120)
        tapped.run(f"nc {HOST} {port} </tmp/got", limit=120)
        thread.join(60)

    assert said.split()[0] == wanted
    assert results == [wanted]


def test_vhost_net_takes_both_queue_pairs_and_offloads(tapped: Tapped) -> None:
    assert tapped.net.runtime.driver_features & (F_MQ | F_CSUM | F_HOST_TSO4) == F_MQ | F_CSUM | F_HOST_TSO4
    assert tapped.run("cat /sys/class/net/eth0/mtu; ls -d /sys/class/net/eth0/queues/* | wc -l") == "9000\n4"


def test_driver_of_vhost_net_that_is_bound_again_reaches_the_host(tapped: Tapped) -> None:
    drivers = "/sys/bus/virtio/drivers/virtio_net"
    for _ in range(5):
        tapped.run(f"echo virtio0 > {drivers}/unbind && echo virtio0 > {drivers}/bind")

    tapped.configure()
