"""The virtio console under Debian's stock kernel: hvc0, an editor, sizes, data ports, re-binding."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.images.default import default_guest
from tests.support.command import OnTerminal, environment
from tests.support.native import CONSOLE, volume

#: Seconds a guest gets.
LIMIT = 180
pytestmark = [pytest.mark.hw, pytest.mark.timeout(LIMIT + 60)]

PROMPT = b"~ # "
VOLUME = volume(10) << 20
#: Run in the guest: the driver's folder in sysfs, and how to find the device file of the port named "data".
PRELUDE = """
drivers=/sys/bus/virtio/drivers/virtio_console
port() { for n in /sys/class/virtio-ports/*; do
    [ "$(cat $n/name 2>/dev/null)" = data ] && [ -c /dev/${n##*/} ] && echo /dev/${n##*/} && return; done; }
wait_port() { until [ -n "$(port)" ]; do usleep 10000; done; }
"""


class Session(OnTerminal):
    """A guest on a terminal of 40 rows and 100 columns, its shell on hvc0."""

    def __init__(self, *options: str) -> None:
        default_guest()  # fetched before the clock runs
        super().__init__("run", "--timeout", str(LIMIT), *options)
        self.resize(40, 100)

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.master, (rows, columns))

    def command(self, text: str) -> str:
        """What *text*, typed at the prompt, prints."""
        # The quotes keep the terminal's echo of the marks from looking like the marks.
        self.press(b"echo BE''GIN; " + text.encode() + b"; echo E''ND$?D\r")
        self.expect(b"BEGIN\r")
        while not (match := re.search(rb"END\d+D", self.seen)):
            self.seen += os.read(self.master, 4096)
        found, self.seen = self.seen[: match.start()], self.seen[match.end() :]
        return found.decode(errors="replace").replace("\r", "").strip("\n")


@pytest.fixture(scope="module")
def plain() -> Iterator[Session]:
    """One console port and nothing else: the device without control queues."""
    session = Session("--hvc", "stdio")
    yield session
    session.close()


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Session, str]]:
    """A console and a data port between named pipes; their path without its end."""
    path = str(tmp_path_factory.mktemp("console") / "data")
    session = Session("--hvc", "stdio", "--hvc", f"pipe:{path},name=data,port")
    yield session, path
    session.close()


def test_kernel_log_and_shell_are_on_hvc0(plain: Session) -> None:
    plain.expect(b"pyvmm guest ready")
    plain.expect(PROMPT)

    assert plain.command("tty; cat /sys/class/tty/console/active") == "/dev/hvc0\nhvc0"
    plain.press(b"echo a word to the log > /dev/kmsg\r")
    plain.expect(b"] a word to the log")


def test_size_of_the_terminal_reaches_the_guest_and_follows_it(plain: Session) -> None:
    first = plain.command("sleep 1; stty size")
    plain.resize(31, 97)
    second = plain.command("sleep 1; stty size")

    assert (first, second) == ("40 100", "31 97")


def test_full_screen_editor_draws_the_whole_screen_and_saves(plain: Session) -> None:
    plain.resize(28, 90)
    plain.command("sleep 1")
    plain.press(b"vi /tmp/poem\r")
    plain.expect(b"\x1b[28;1H")  # the status line
    plain.press(b"iroses\rviolets\x1b")
    plain.expect(b"- /tmp/poem [Modified]")  # the key that ends a text is one that may begin a sequence
    plain.press(b":wq\r")

    assert plain.command("cat /tmp/poem") == "roses\nviolets"


def test_size_reaches_a_device_with_several_ports(several: tuple[Session, str]) -> None:
    session, _ = several
    session.expect(PROMPT)
    first = session.command("sleep 1; stty size")
    session.resize(31, 97)
    second = session.command("sleep 1; stty size")

    assert (first, second) == ("40 100", "31 97")


def test_data_port_carries_megabytes_to_the_host(several: tuple[Session, str]) -> None:
    session, path = several
    seen = hashlib.sha1()

    def read() -> None:
        left = VOLUME
        with open(f"{path}.out", "rb", buffering=0) as pipe:
            while left:
                data = pipe.read(min(left, 65536))
                seen.update(data)
                left -= len(data)

    reader = threading.Thread(target=read)
    reader.start()
    told = session.command(
        f"head -c {VOLUME} /dev/urandom > /tmp/r; cat /tmp/r > /dev/vport0p1; sha1sum < /tmp/r"
    )
    reader.join(60)

    assert seen.hexdigest() in told


def test_data_port_carries_megabytes_to_the_guest(several: tuple[Session, str]) -> None:
    session, path = several
    data = os.urandom(VOLUME)

    def write() -> None:
        with open(f"{path}.in", "wb") as pipe:
            pipe.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    told = session.command(f"head -c {VOLUME} /dev/vport0p1 | sha1sum")
    writer.join(60)

    assert hashlib.sha1(data).hexdigest() in told


def test_quit_key_on_hvc0_ends_the_guest(several: tuple[Session, str]) -> None:
    session, _ = several
    session.press(b"\x01x")

    assert session.wait() == 3
    assert session.restored


def execute(command: str, *options: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pyvmm",
            "run",
            "--timeout",
            str(LIMIT),
            *options,
            "--exec",
            PRELUDE + command,
        ],
        input=stdin,
        capture_output=True,
        timeout=LIMIT + 20,
        env=environment(),
        check=False,
    )


def test_driver_bound_again_and_again_also_under_load_still_works(tmp_path: Path) -> None:
    path = tmp_path / "data"
    command = """
    wait_port
    name=$(port); device=$(readlink /sys/class/virtio-ports/${name##*/}/device); device=${device##*/}
    for n in $(seq 20); do echo $device > $drivers/unbind; echo $device > $drivers/bind; done
    for n in $(seq 20); do
        wait_port
        exec 3> $(port)
        dd if=/dev/zero bs=32k count=100 >&3 2>/dev/null &
        exec 3>&-
        echo $device > $drivers/unbind; echo $device > $drivers/bind
    done
    wait; wait_port; echo the end > $(port)
    """

    done = execute(command, "--hvc", "none", "--hvc", f"file:{path},name=data,port", "--console", "none")

    assert (done.returncode, done.stdout) == (0, b""), done
    assert path.read_bytes().endswith(b"the end\n")


def test_panic_with_the_console_on_hvc0_is_the_ending() -> None:
    done = execute("echo c > /proc/sysrq-trigger", "--hvc", "none")

    assert done.returncode == 7, done


def test_exec_carries_megabytes_through_a_port() -> None:
    data = os.urandom(volume(8) << 20)  # in 140 seconds through the serial port

    done = execute("cat > /tmp/x; cat /tmp/x; ls -l /proc/[0-9]*/fd | grep -q /dev/vport0p0", stdin=data)

    assert done.stdout == data
    assert done.returncode == 0, done.stderr


def test_exec_when_the_kernel_finds_no_virtio_devices_goes_through_the_serial_port() -> None:
    words = f"console={CONSOLE} quiet panic=-1 module_blacklist=virtio_mmio"

    done = execute("cat; ls /sys/class/virtio-ports", "--cmdline", words, stdin=b"text")

    assert (done.returncode, done.stdout) == (0, b"text"), done
