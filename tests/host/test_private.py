"""Files of this user alone."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.backends.disk.image import open_disk
from pyvmm.backends.file import OutputFile
from pyvmm.backends.net.pcap import Capture
from pyvmm.cli import result
from pyvmm.host.private import open_private
from pyvmm.images import cache
from pyvmm.loop import Loop
from pyvmm.machine.ending import TOLD, Ending
from pyvmm.testing import FakeDriver
from pyvmm.virtio.rng.device import Rng
from pyvmm.virtio.tools.record import Recorder
from pyvmm.virtio.tools.trace import TraceFile


@pytest.fixture(autouse=True)
def permissive() -> Iterator[None]:
    """A umask that takes nothing away."""
    before = os.umask(0)
    yield
    os.umask(before)


def console(path: str) -> None:
    with Loop() as loop:
        backend = OutputFile(path)
        backend.attach(loop, lambda data: None, lambda: 0)
        backend.close()


def recording(path: str) -> None:
    device = Rng()
    recorder = Recorder(path).serve(device)
    with FakeDriver(device):
        pass
    recorder.closed()


def disk(path: str) -> None:
    open_disk(path, create=1 << 20).close()


def capture(path: str) -> None:
    Capture(path).close()


def ending(path: str) -> None:
    result.write(path, Ending(0, "poweroff", TOLD, ""), None)


def trace(path: str) -> None:
    TraceFile(path).close()


@pytest.mark.parametrize("make", [console, recording, disk, capture, ending, trace])
def test_what_a_guest_writes_is_for_its_user_alone(tmp_path: Path, make: Callable[[str], None]) -> None:
    path = tmp_path / "new"
    make(str(path))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_mode_of_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    path.touch(0o664)
    os.close(open_private(str(path), os.O_TRUNC))

    assert stat.S_IMODE(path.stat().st_mode) == 0o664


def test_link_is_followed_if_it_is_ones_own(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.close(open_private(str(tmp_path / "link"), 0))

    assert (tmp_path / "file").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's link")
def test_another_users_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.lchown(tmp_path / "link", 12345, 12345)

    with pytest.raises(OSError, match="another user's symbolic link") as caught:
        open_private(str(tmp_path / "link"), 0)
    assert caught.value.errno == errno.ELOOP
    assert not (tmp_path / "file").exists()


def test_result_goes_into_no_file_that_somebody_has_put_beside_it(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f"result.{os.getpid()}").symlink_to(victim)
    ending(str(tmp_path / "result"))

    assert victim.read_text() == "precious"
    assert "poweroff" in (tmp_path / "result").read_text()


def test_locks_of_the_cache_can_be_held_by_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    older = tmp_path / "cache" / ".lock-older"
    older.parent.mkdir()
    older.touch(0o666)
    for name in ("new", "older"):
        with cache.locked(tmp_path / "cache" / name):
            assert stat.S_IMODE((tmp_path / "cache" / f".lock-{name}").stat().st_mode) == 0o600
