"""Debian's stock kernel with our init under QEMU's emulation: the protocol over real channels.

A boot each, some seconds; no KVM is needed.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time

import pytest

from pyvmm.exec import frames
from pyvmm.exec.request import Request
from pyvmm.images import cpio, debian
from pyvmm.images.cache import CacheError
from pyvmm.images.default import default_guest
from pyvmm.images.initramfs import build, busybox_program, init_program
from pyvmm.images.modules import ModuleTree
from tests.support.exec_link import Link

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no qemu-system-x86_64"),
]

BOOT = 150
END = 60
FOLLOWERS = 200
TORN = 5
SETUP = b"echo setup ran > /run/setup\n"


@pytest.fixture(scope="module")
def guest():
    try:
        return default_guest()
    except (debian.PackageError, CacheError) as error:
        pytest.skip(str(error))


class Qemu:
    """A running QEMU with sockets for its channels, and its console in a file."""

    def __init__(self, folder, kernel, initrd, cmdline, arguments):
        self.folder = folder
        self.console = folder / "console"
        self.links = {}
        command = [
            "qemu-system-x86_64",
            "-accel",
            "tcg",
            "-m",
            "256",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ]
        command += ["-kernel", str(kernel), "-initrd", str(initrd), "-serial", f"file:{self.console}"]
        command += ["-append", f"console=ttyS0 quiet panic=-1 {cmdline}"]
        command += ["-qmp", f"unix:{folder}/qmp,server=on,wait=off"]
        self.process = subprocess.Popen([*command, *arguments], stdin=subprocess.DEVNULL)

    def connect(self, name):
        """A link to the channel *name*."""
        return Link(self.open(name).detach())

    def open(self, name):
        deadline = time.monotonic() + END
        while True:
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(f"{self.folder}/{name}")
            except OSError:
                link.close()
                assert self.process.poll() is None, "QEMU ended"
                assert time.monotonic() < deadline, f"QEMU has no socket {name}"
                continue
            return link

    def press_power_button(self):
        with self.open("qmp") as qmp, qmp.makefile("rw") as stream:
            stream.readline()
            for command in ("qmp_capabilities", "system_powerdown"):
                stream.write(json.dumps({"execute": command}))
                stream.flush()
                stream.readline()

    def ended(self):
        return self.process.wait(END)

    def close(self):
        self.process.kill()
        self.process.wait()


def channel_arguments(folder, *names):
    """A virtio console with a port and a socket for each name."""
    arguments = ["-device", "virtio-serial-pci"]
    for name in names:
        arguments += ["-chardev", f"socket,id={name},path={folder}/{name},server=on,wait=off"]
        arguments += ["-device", f"virtserialport,chardev={name},name={name}"]
    return arguments


def with_ports(folder, guest, *names):
    """QEMU with two CPUs, whose guest serves a virtio port for each name."""
    kernel = debian.package("linux-image-cloud-amd64")
    busybox = busybox_program(debian.package("busybox-static"))
    modules = ModuleTree(kernel.root, guest.release).load_order(["virtio_pci", "virtio_console"])
    channels = "".join(f"/dev/virtio-ports/{name}\n" for name in names).encode()
    files = [cpio.file("etc/pyvmm/channels", channels), cpio.file("etc/pyvmm/setup", SETUP)]
    (folder / "initrd").write_bytes(build(init_program(), busybox, modules=modules, files=files))
    return Qemu(
        folder, guest.kernel, folder / "initrd", "", ["-smp", "2", *channel_arguments(folder, *names)]
    )


def test_stock_kernel_runs_commands_over_a_serial_port_and_obeys_the_power_button(guest, tmp_path):
    serial = [
        "-chardev",
        f"socket,id=exec,path={tmp_path}/exec,server=on,wait=off",
        "-serial",
        "chardev:exec",
    ]
    qemu = Qemu(tmp_path, guest.kernel, guest.initrd, "pyvmm.exec=ttyS1", serial)
    try:
        link = qemu.connect("exec")
        assert link.run(Request.shell("echo out; echo err >&2; exit 3"), limit=BOOT) == (
            3,
            b"out\n",
            b"err\n",
        )
        assert link.run(Request(["uname", "-r"]))[1].decode() == f"{guest.release}\n"
        data = os.urandom(100_000)
        assert link.run(Request(["cat"]), stdin=data) == (0, data, b"")
        status, output, _ = link.run(Request.shell("stty size; test -t 0", pty=(30, 90)))
        assert (status, output) == (0, b"30 90\r\n")
        # An orphan is adopted and reaped by init.
        orphan = "(sleep 0.1 & echo $!) > /run/orphan; sleep 0.3; test ! -e /proc/$(cat /run/orphan)"
        assert link.run(Request.shell(orphan))[0] == 0
        qemu.press_power_button()
        assert qemu.ended() == 0
        said = qemu.console.read_text()
        assert f"pyvmm guest ready: Linux {guest.release} x86_64, 1 CPUs" in said
        assert "pyvmm-init:" not in said
        assert "panic" not in said
    finally:
        qemu.close()


def test_stock_kernel_serves_several_virtio_ports_at_once_and_ends_what_a_host_left(guest, tmp_path):
    qemu = with_ports(tmp_path, guest, "one", "two")
    try:
        one, two = qemu.connect("one"), qemu.connect("two")
        assert one.run(Request(["cat", "/run/setup"]), limit=BOOT) == (0, b"setup ran\n", b"")

        sleeping = two.start(Request.shell("echo $$; exec sleep 1000"))
        two.until(lambda: sleeping.stdout.endswith(b"\n"))
        left = int(sleeping.stdout)
        data = os.urandom(10_000_000)
        assert one.run(Request(["cat"]), stdin=data, limit=BOOT) == (0, data, b"")
        assert one.run(Request(["test", "-e", f"/proc/{left}"]))[0] == 0

        os.close(two.fd)
        gone = f"for i in $(seq 100); do test -e /proc/{left} || exit 0; sleep 0.1; done; exit 1"
        assert one.run(Request.shell(gone))[0] == 0
        again = qemu.connect("two")
        assert again.run(Request(["echo", "again"])) == (0, b"again\n", b"")

        one.client.power(reboot=True)
        os.write(one.fd, one.unsent)
        assert qemu.ended() == 0
    finally:
        qemu.close()


def test_a_host_that_follows_another_at_once_keeps_its_command(guest, tmp_path):
    # The port's hang-up may reach the guest after the next host's greeting: one in twenty did.
    qemu = with_ports(tmp_path, guest, "one")
    try:
        host = qemu.connect("one")
        assert host.run(Request(["true"]), limit=BOOT)[0] == 0
        for number in range(FOLLOWERS):
            follower = qemu.connect("one")
            echo = follower.start(Request(["echo", str(number)]))
            del follower.unsent[: os.write(follower.fd, follower.unsent)]
            os.close(host.fd)
            host = follower
            assert host.finish(echo) == (0, f"{number}\n".encode(), b"")
    finally:
        qemu.close()


def test_a_host_that_follows_one_cut_off_in_a_frame_keeps_its_command(guest, tmp_path):
    qemu = with_ports(tmp_path, guest, "one")
    try:
        host = qemu.connect("one")
        assert host.run(Request(["true"]), limit=BOOT)[0] == 0
        for number in range(TORN):
            os.write(host.fd, frames.encode(frames.HOST_STDIN, 1, bytes(2000))[: 9 + number])
            follower = qemu.connect("one")
            echo = follower.start(Request(["echo", str(number)]))
            del follower.unsent[: os.write(follower.fd, follower.unsent)]
            os.close(host.fd)
            host = follower
            assert host.finish(echo) == (0, f"{number}\n".encode(), b"")
    finally:
        qemu.close()
