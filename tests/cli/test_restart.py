"""``--on-reboot restart``: what the host has of a guest lasts as long as ``pyvmm run``, over all boots."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.host_objects import HostObjects
from pyvmm.config import Config
from pyvmm.loop import Loop
from pyvmm.machine.machine import Machine
from pyvmm.virtio.tools.record import Recording
from pyvmm.virtio.transport.mmio import CONFIG
from tests.support import programs
from tests.support.command import LIMIT, MODULE, environment, read_until, until
from tests.support.firmware_guest import Transcript

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

WORD = b"boot\n"
#: mov dx, 0x3fd; in al, dx; test al, 1; jz to the in; mov dx, 0x3f8; in al, dx; out dx, al: echo one key.
KEY = bytes.fromhex("bafd03 ec a801 74fb baf803 ec ee")
RESET = programs.outb(0x64, 0xFE)


class Restarting:
    """``pyvmm run`` of a guest that prints ``boot``, perhaps echoes a key, and resets."""

    def __init__(self, folder: Path, console: str, code: bytes = b"") -> None:
        program = programs.rom(folder, programs.outb(0x3F8, *WORD) + code + RESET)
        self.process = subprocess.Popen(
            [*MODULE, "run", "--firmware", program, "--on-reboot", "restart", "--console", console],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == 3


@pytest.fixture
def started() -> Iterator[list[Restarting]]:
    everybody: list[Restarting] = []
    yield everybody
    for each in everybody:
        each.process.kill()
        each.process.communicate()


def read_boots(fd: int, boots: int) -> None:
    seen = b""
    while seen.count(WORD) < boots:
        seen += os.read(fd, 4096)


def test_pty_keeps_its_name_and_the_program_that_has_it_open(
    tmp_path: Path, started: list[Restarting]
) -> None:
    guest = Restarting(tmp_path, "pty")
    started.append(guest)
    assert guest.process.stderr is not None
    path = guest.process.stderr.readline().split()[-1]
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    try:
        tty.setraw(fd)
        read_boots(fd, 5)
        guest.end()
    finally:
        os.close(fd)


def test_file_has_every_boot(tmp_path: Path, started: list[Restarting]) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"an earlier run\n")
    guest = Restarting(tmp_path, f"file:{log}")
    started.append(guest)

    until(lambda: log.read_bytes().count(WORD) >= 5)

    guest.end()
    assert log.read_bytes().startswith(WORD * 5)


def test_socket_keeps_its_client(tmp_path: Path, started: list[Restarting]) -> None:
    path = str(tmp_path / "socket")
    guest = Restarting(tmp_path, f"socket:{path}")
    started.append(guest)
    until(lambda: os.path.exists(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        read_boots(client.fileno(), 5)
    guest.end()


def test_named_pipes_stay(tmp_path: Path, started: list[Restarting]) -> None:
    path = tmp_path / "pipe.out"
    guest = Restarting(tmp_path, f"pipe:{tmp_path / 'pipe'}")
    started.append(guest)
    until(lambda: path.exists() and stat.S_ISFIFO(path.stat().st_mode))
    fd = os.open(path, os.O_RDONLY)
    try:
        read_boots(fd, 5)
    finally:
        os.close(fd)
    guest.end()


def test_input_that_came_before_a_reboot_is_the_next_boots(tmp_path: Path, started: list[Restarting]) -> None:
    guest = Restarting(tmp_path, "stdio", KEY)
    started.append(guest)
    assert guest.process.stdin is not None and guest.process.stdout is not None
    guest.process.stdin.write(b"abcdef")
    guest.process.stdin.flush()

    said = b"".join(WORD + bytes((key,)) for key in b"abcdef") + WORD
    assert read_until(guest.process.stdout, said) == said
    guest.end()


@pytest.fixture
def boots(tmp_path: Path) -> Iterator[tuple[Loop, Config, HostObjects]]:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    config = Config(
        firmware=programs.rom(tmp_path, RESET),
        memory="1M",
        timeout=LIMIT,
        on_reboot="restart",
        hvc=["pty", f"socket:{tmp_path / 'hvc'}", f"file:{tmp_path / 'log'}"],
        disk=f"{tmp_path / 'disk'},snapshot",
        net=["switch:restart", f"link:{tmp_path / 'link'},pcap={tmp_path / 'frames'}"],
        vsock=f"3,path={tmp_path / 'vsock'}",
        balloon=True,
    )
    with Loop() as loop:
        host_objects = HostObjects()
        try:
            yield loop, config, host_objects
        finally:
            host_objects.close()


def test_what_devices_have_on_the_host_stays_and_they_are_made_anew(
    tmp_path: Path, boots: tuple[Loop, Config, HostObjects]
) -> None:
    loop, config, host_objects = boots
    seen, made = [], []
    data = bytearray(b"written in the first boot".ljust(512))
    paths = [tmp_path / name for name in ("hvc", "vsock", "link", "log", "frames")]
    for boot in range(3):
        machine = Machine(config, loop=loop, console=Transcript(), host_objects=host_objects)
        assert machine.virtio is not None
        devices = {one.name: one.device for one in machine.virtio.attached}
        disk = devices["disk0"].disk  # type: ignore[attr-defined]
        if not boot:
            disk.write([memoryview(data)], 0, len(data), False)
            (tmp_path / "log").write_bytes(b"output")
        ending = machine.run()
        assert (ending.code, ending.reason) == (0, "reboot")
        back = bytearray(512)
        disk.read([memoryview(back)], 0, len(back))
        assert back == data
        assert (tmp_path / "log").read_bytes() == b"output"
        pty = devices["console0"].ports[0].backend.path  # type: ignore[attr-defined]
        assert os.path.exists(pty)
        seen.append((sorted(devices), pty, [path.stat().st_ino for path in paths]))
        made += devices.values()

    assert len(set(made)) == len(made)
    assert seen[0] == seen[1] == seen[2]
    assert (tmp_path / "disk").read_bytes() == bytes(1 << 20)
    host_objects.close()
    assert not any((tmp_path / name).exists() for name in ("hvc", "vsock", "link"))


def test_what_the_user_has_set_of_devices_stays(boots: tuple[Loop, Config, HostObjects]) -> None:
    loop, config, host_objects = boots
    for boot in range(2):
        machine = Machine(config, loop=loop, console=Transcript(), host_objects=host_objects)
        balloon, net = machine.devices["balloon0"], machine.devices["net0"]
        assert (balloon.target, balloon.config.num_pages) == ((0, 0) if not boot else (8 << 20, 2 << 10))
        assert net.link_up is not bool(boot)
        balloon.target = 8 << 20
        net.set_link(False)
        machine.run()


def test_trace_and_recording_of_a_device_have_every_boot(
    tmp_path: Path, boots: tuple[Loop, Config, HostObjects]
) -> None:
    loop, config, host_objects = boots
    trace, recording = tmp_path / "trace", tmp_path / "recording"
    config = config.replace(
        trace_device=[f"balloon0={trace}", f"net={trace}"], record=[f"balloon0={recording}"]
    )
    for boot in range(3):
        with Machine(config, loop=loop, console=Transcript(), host_objects=host_objects) as machine:
            assert machine.virtio is not None
            (balloon,) = [one for one in machine.virtio.attached if one.name == "balloon0"]
            balloon.transport.write(CONFIG + 4, 4, boot)  # what its driver does: "actual"
            machine.run()
    host_objects.close()

    lines = trace.read_text().splitlines()
    assert [line.rsplit(" ", 1)[-1] for line in lines if "balloon0" in line] == ["0x0", "0x1", "0x2"]
    assert [entry.config() for entry in Recording(str(recording))] == [(4, 4, 0), (4, 4, 1), (4, 4, 2)]


def test_device_of_the_users_own_is_made_anew(
    tmp_path: Path, boots: tuple[Loop, Config, HostObjects]
) -> None:
    loop, _, host_objects = boots
    program = tmp_path / "own.py"
    program.write_text(
        "import pyvmm\n\n\nclass Own(pyvmm.VirtioDevice):\n"
        "    device_id = 42\n    name = 'own'\n    closed = 0\n\n"
        "    def close(self):\n        Own.closed += 1\n"
    )
    config = Config(
        firmware=programs.rom(tmp_path, RESET), memory="1M", timeout=LIMIT, device=f"{program}:Own"
    )
    first = Machine(config, loop=loop, console=Transcript(), host_objects=host_objects)
    assert first.virtio is not None
    one = first.virtio.attached[0].device
    first.run()
    second = Machine(config, loop=loop, console=Transcript(), host_objects=host_objects)
    assert second.virtio is not None
    assert second.virtio.attached[0].device is not one
    second.run()
