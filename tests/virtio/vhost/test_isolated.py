"""``--device CLASS,isolated``: the device in a confined process of its own, and what the guest sees of it."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.arch import native
from pyvmm.config import DEVICE_KINDS, Config
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.host.sandbox import KILL
from pyvmm.testing import FakeDriver
from pyvmm.virtio import features as f
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.options import make_device
from tests.support import programs
from tests.support.command import BIN, EXIT, LIMIT, MODULE, PASSED, environment, read_until, until
from tests.support.firmware_guest import PARAMETERS
from tests.support.reaching_device import ROOM
from tests.support.sandbox_acts import ACTS

pytestmark = pytest.mark.timeout(120)
x86_64 = pytest.mark.skipif(native.NAME == "arm64", reason="the program is x86-64's")

ROOT = Path(__file__).parents[3]
DEVICE = "tests.support.reaching_device:Reaching"
SERVER = "pyvmm.virtio.vhost.server.isolated"
#: An entropy device, which can be busy for ever.
NOISE = """
import os
from pyvmm import VirtioDevice

class Noise(VirtioDevice):
    device_id = 4
    name = "noise"
    features = 1 << 3
    queue_sizes = (64,)
    config_fields = {"seen": "u32"}

    def __init__(self, busy: bool = False):
        super().__init__()
        self.busy = busy

    def handle(self, queue, chain):
        if self.busy:
            print("busy", flush=True)
        while self.busy:
            pass
        self.config.seen += 1
        self.config_changed()
        chain.write(os.urandom(chain.writable_size))
"""


@pytest.fixture
def noise(tmp_path: Path) -> str:
    file = tmp_path / "noise.py"
    file.write_text(NOISE)
    return f"{file}:Noise"


def made(text: str) -> VirtioDevice:
    return make_device(DEVICE_KINDS["device"].parse(text))


def told(**changed: object) -> bytes:
    """The line that a process begins with, with *changed* in it."""
    right = {"device_id": 4, "name": "noise", "queue_sizes": [64], "config": 4, "lacking": []}
    return json.dumps({**right, **changed}).encode() + b"\n"


def servers(mark: str) -> list[int]:
    """The processes of isolated devices whose command lines have *mark*."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        if mark.encode() in words and SERVER.encode() in words:
            found.append(int(path.parent.name))
    return found


def test_driver_sees_the_same_device(noise: str) -> None:
    seen = []
    for words in ("", ",isolated"):
        device = made(f"{noise}{words}")
        with FakeDriver(device) as driver:
            answer = driver.request(0, [b"ab"], [10])
            driver.run(lambda driver=driver: driver.config(0, 4) == 1)
            offered = device.offered_features & ~f.COMMON
            seen.append((device.device_id, device.name, tuple(device.queue_sizes), offered, len(answer)))

    assert seen[0] == seen[1]
    assert seen[0][4] == 10


def test_its_code_can_do_no_forbidden_act_nor_reach_what_it_did_not_declare(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("text")
    with FakeDriver(made(f"{DEVICE},isolated")) as driver:
        outcomes = json.loads(driver.request(0, [b"acts"], [ROOM]))
    with FakeDriver(made(f"{DEVICE},isolated,reach={tmp_path}/in")) as driver:
        inside = driver.request(0, [f"read {tmp_path}/in/file".encode()], [ROOM])
        outside = driver.request(0, [b"read /etc/passwd"], [ROOM])

    assert outcomes == {name: act.refused for name, act in ACTS.items()}
    assert inside == b"text"
    assert outside in (b"ENOENT", b"EACCES")


def test_what_it_does_is_allowed_where_all_else_kills(monkeypatch: pytest.MonkeyPatch, noise: str) -> None:
    monkeypatch.setenv(KILL, "1")
    with FakeDriver(made(f"{noise},isolated")) as driver:
        for _ in range(3):
            assert len(driver.request(0, [], [10])) == 10
            driver.probe()
        # It would have ended otherwise.
        assert not driver.status & f.DEVICE_NEEDS_RESET


def test_its_process_ends_with_the_device(noise: str) -> None:
    with FakeDriver(made(f"{noise},isolated")) as driver:
        assert len(driver.request(0, [], [10])) == 10
        assert len(servers(noise)) == 1

    assert servers(noise) == []


def test_defect_is_told_and_the_device_needs_a_reset(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with FakeDriver(made(f"{DEVICE},isolated")) as driver:
        driver.queues[0].add([b"raise /nowhere/at/all"], [1])
        driver.queues[0].kick()
        driver.run(lambda: driver.status & f.DEVICE_NEEDS_RESET)
        driver.run()

    assert "closed the connection" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}:Nothing,isolated", "has no Nothing"),
        ("{}:Noise,isolated,speed=9", "'speed' is unknown"),
        ("/nowhere/at/all.py:It,isolated", "there is no such Python file"),
    ],
)
def test_what_is_wrong_is_the_same_sentence_as_in_one_process(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "noise.py"
    file.write_text(NOISE)
    said = []
    for each in (text, text.replace(",isolated", "")):
        with pytest.raises(ConfigError, match=why) as caught:
            made(each.format(file))
        said.append(str(caught.value))

    assert said[0] == said[1]
    assert servers(str(file)) == []


def test_class_that_ends_its_process_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("import os\nprint('going', flush=True)\nos._exit(3)\n")

    with pytest.raises(PyvmmError, match="its process does not start: going"):
        made(f"{file}:Bad,isolated")


def test_guest_ram_is_shared_for_it_alone(noise: str) -> None:
    for words, shared in (("", False), (",isolated", True), (",isolated=off", False)):
        assert Config(firmware="f", device=f"{noise}{words}").shares_memory is shared


@contextmanager
def guest(
    firmware: str, device: str, *more: str, stdin: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """``pyvmm run``; a system call that its sandbox does not allow kills its VM process, or the device's."""
    command = ["--firmware", firmware, "--memory", "16M", "--timeout", "60s", "--device", device, *more]
    with subprocess.Popen(
        [*MODULE, "run", *command],
        cwd=ROOT,
        env={**environment(), KILL: "1"},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def rng_driver(folder: Path) -> str:
    """A program that makes 200 requests to its entropy device."""
    program = bytearray((BIN / "virtio_rng.bin").read_bytes())
    struct.pack_into("<3Q", program, PARAMETERS, 0xD000_0000, 200, 0)
    firmware = folder / "virtio_rng.bin"
    firmware.write_bytes(program)
    return str(firmware)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def busy_server(process: subprocess.Popen[bytes], mark: str) -> int:
    """The process of the isolated device *mark*, once it computes for the driver, which it says."""
    assert process.stderr is not None
    read_until(process.stderr, b"busy\n")
    [server] = servers(mark)
    assert "Seccomp:\t2" in Path(f"/proc/{server}/status").read_text()
    return server


@pytest.mark.kvm
@x86_64
def test_guest_is_served_as_by_a_device_in_its_vmm(tmp_path: Path, noise: str) -> None:
    seen = []
    for words, sandbox in (("", "off"), (",isolated", "off"), (",isolated", "on")):
        with guest(rng_driver(tmp_path), f"{noise}{words}", "--sandbox", sandbox) as process:
            output, errors = process.communicate()
            seen.append((process.returncode, output, errors))

    assert seen[0] == seen[1] == seen[2]
    assert seen[0][0] == PASSED, seen
    assert servers(noise) == []


@pytest.mark.kvm
@x86_64
@pytest.mark.parametrize("killed", ["parent", "VM process", "both"])
def test_process_of_a_device_that_is_busy_ends_with_a_vmm_that_is_killed(
    tmp_path: Path, noise: str, killed: str
) -> None:
    with guest(rng_driver(tmp_path), f"{noise},isolated,busy=on", "--sandbox", "on") as process:
        server = busy_server(process, noise)
        [vm_process] = [pid for pid in children(process.pid) if pid != server]
        if killed != "VM process":
            process.kill()
        if killed != "parent":
            os.kill(vm_process, signal.SIGKILL)
        _, errors = process.communicate(timeout=LIMIT)
        until(lambda: not servers(noise))

    assert process.returncode == {"VM process": 96}.get(killed, -signal.SIGKILL)
    assert ("ended by SIGKILL" in errors.decode()) is (killed == "VM process")


@pytest.mark.kvm
@x86_64
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_machine_outlives_a_device_that_is_killed_or_stopped(
    tmp_path: Path, noise: str, number: signal.Signals
) -> None:
    with guest(rng_driver(tmp_path), f"{noise},isolated,busy=on", "--sandbox", "on") as process:
        os.kill(busy_server(process, noise), number)
        if number == signal.SIGKILL:
            assert process.stderr is not None
            assert read_until(process.stderr, b"\n").endswith(b" closed the connection\n")
        assert process.poll() is None
        process.terminate()
        _, errors = process.communicate(timeout=LIMIT)

    assert process.returncode == 3
    assert b"Traceback" not in errors
    assert servers(noise) == []


@pytest.mark.kvm
@x86_64
def test_guest_that_reboots_keeps_the_process_and_has_another_when_it_was_killed(
    tmp_path: Path, noise: str
) -> None:
    boot, reset = programs.outb(0x3F8, *b"boot\n"), programs.outb(0x64, 0xFE)
    byte_typed = bytes.fromhex("a801 74fb")  # test al, 1; jz to the IN before it
    key = programs.inb(0x3FD) + byte_typed + programs.inb(0x3F8)
    program = programs.rom(tmp_path, boot + key + reset)
    arguments = "--on-reboot", "restart", "--console", "stdio", "--sandbox", "on"
    with guest(program, f"{noise},isolated", *arguments, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None

        def reboot() -> None:
            process.stdin.write(b"x")
            process.stdin.flush()
            read_until(process.stdout, b"boot\n")

        read_until(process.stdout, b"boot\n")
        [first] = servers(noise)
        reboot()
        assert servers(noise) == [first]
        os.kill(first, signal.SIGKILL)
        until(lambda: servers(noise) == [])
        reboot()
        assert servers(noise) not in ([], [first])
        process.terminate()
        _, errors = process.communicate(timeout=LIMIT)

    assert process.returncode == 3, errors
    assert servers(noise) == []


@pytest.mark.kvm
@x86_64
def test_guest_can_be_ended_while_the_class_does_not_come_to_an_end(tmp_path: Path) -> None:
    file = tmp_path / "endless.py"
    file.write_text("while True:\n    pass\n")
    with guest(EXIT, f"{file}:Endless,isolated", "--sandbox", "on") as process:
        until(lambda: servers(str(file)))
        process.terminate()
        process.communicate(timeout=LIMIT)

    assert process.returncode == 3
    assert servers(str(file)) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "it ended before it was ready"),
        (b"no JSON\n", "it does not say what it is"),
        (b"[" * 40000 + b"\n", "it does not say what it is"),
        (b"x" * 100_000, "it ended before it was ready"),
        (b"{}\n", "it does not say what it is"),
        (told(device_id=0), "cannot be a device"),
        (told(name="\33[2J"), "cannot be a device"),
        (told(queue_sizes=[3]), "cannot be a device"),
        (told(queue_sizes=[1] * 100), "cannot be a device"),
        (told(config=1 << 20), "cannot be a device"),
        (told(lacking=7), "it does not say what it is"),
        (told(), "its process does not start: [a-z ]+"),
        (told() + bytes(12), "none of vhost-user"),
        (told(error="\33[2J" + "bad" * 1000), r"\\x1b\[2J.*\.\.\."),
    ],
)
def test_process_that_lies_is_one_sentence(tmp_path: Path, line: bytes, why: str) -> None:
    file = tmp_path / "liar.py"
    # It reads what it is asked and does not answer, or ends at once.
    reads = line not in (b"", told())
    file.write_text(f"""
import os
data = {line!r}
while data:
    data = data[os.write(3, data):]
while {reads} and os.read(3, 4096):
    pass
os._exit(0)
""")

    with pytest.raises(PyvmmError, match=why) as caught:
        made(f"{file}:Liar,isolated")

    assert len(str(caught.value)) < 2000
    assert str(caught.value).isprintable()
    assert servers(str(file)) == []
