"""Files from a guest that answers requests with whatever it likes."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvmm.cpio import TRAILER, CpioError, Header, padding
from pyvmm.exec import frames
from pyvmm.exec.tree import archive_of
from pyvmm.guest.commands import Commands
from pyvmm.guest.exec_devices import ExecDevices
from pyvmm.guest.files import Files
from pyvmm.guest.watch import Watch
from pyvmm.loop import LoopThread

if TYPE_CHECKING:
    from pyvmm.guest.watch import Waits

LIMIT = 30

pytestmark = pytest.mark.timeout(60)


class Guest:
    """The guest's end of a serial port: each request gets ``archive`` as its output, and status 0."""

    def __init__(self) -> None:
        self.archive = b""
        self.watch = Watch()
        self.thread = LoopThread("files test")
        self.devices = ExecDevices()
        self.commands = Commands(self.watch, self.thread.loop, self.devices.link)
        self._decoder = frames.Decoder()
        self.devices.serial.attach(self.thread.loop, self._receive, lambda: 65536)
        port = self.devices.device.ports[0].backend
        port.attach(self.thread.loop, lambda data: False, lambda: 0)
        self.commands.connect()
        self.files = Files(self.watch, self._ready, str)

    def _ready(self, what: str, deadline: float | None, timeout: float | None) -> Waits[Commands]:
        yield from ()
        return self.commands

    def _receive(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            if frame.type == frames.HOST_HELLO:
                nonce = struct.unpack_from("<I", frame.payload, 4)[0]
                self._say(frames.GUEST_HELLO, 0, struct.pack("<HHIII", 2, 0, nonce, 65536, 65536))
            elif frame.type == frames.HOST_RUN:
                for at in range(0, len(self.archive), frames.PAYLOAD_MAX):
                    self._say(frames.GUEST_STDOUT, frame.run, self.archive[at : at + frames.PAYLOAD_MAX])
                self._say(frames.GUEST_EXIT, frame.run, bytes(8))

    def _say(self, type: int, run: int, payload: bytes) -> None:
        self.devices.serial.write(frames.encode(type, run, payload))


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.thread.close()


def entry(name: str, data: bytes) -> bytes:
    return Header(name, stat.S_IFREG | 0o644, len(data)).pack(1) + data + padding(len(data))


def test_read_gives_the_file(guest: Guest) -> None:
    guest.archive = archive_of(b"content")
    assert guest.files.read("/f", LIMIT, None) == b"content"
    guest.archive = archive_of(b"")
    assert guest.files.read("/f", LIMIT, None) == b""


@pytest.mark.parametrize("second", [b"", b"more"])
def test_read_when_more_than_one_file_comes_is_refused(guest: Guest, second: bytes) -> None:
    guest.archive = entry(".", b"content") + entry("a", second) + Header(TRAILER, 0).pack(0)
    with pytest.raises(CpioError, match="read /f: the guest sent more than one file"):
        guest.files.read("/f", LIMIT, None)


@pytest.mark.parametrize("whole", [archive_of(b"content" * 10000), archive_of(b"")])
@pytest.mark.parametrize("part", [0, 0.3, 0.9])
def test_read_when_the_archive_is_cut_off_is_an_error(guest: Guest, whole: bytes, part: float) -> None:
    guest.archive = whole[: int(len(whole) * part)]
    with pytest.raises(CpioError, match="ended before"):
        guest.files.read("/f", LIMIT, None)


def test_get_when_the_guest_sends_files_for_ever_ends_at_the_limit(guest: Guest, tmp_path: Path) -> None:
    guest.archive = archive_of(b"x" * 100_000)
    with pytest.raises(CpioError, match=r"more for .* than was to be taken"):
        guest.files.get("/f", tmp_path / "f", LIMIT, None, 99_999)
    guest.files.get("/f", tmp_path / "f", LIMIT, None, 100_000)
    assert (tmp_path / "f").stat().st_size == 100_000
