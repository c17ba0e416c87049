"""The words of ``--vhost-user``, ``--vsock ...,vhost`` and ``pyvmm device``; hosts without vhost."""

from __future__ import annotations

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyvmm.backends.base import BackendError
from pyvmm.cli.device import parse
from pyvmm.config import DEVICE_KINDS, Config
from pyvmm.errors import PyvmmError
from pyvmm.loop import Loop
from pyvmm.virtio.net import vhost as net
from pyvmm.virtio.options import make_device
from pyvmm.virtio.rng.device import Rng
from pyvmm.virtio.vhost import channel
from pyvmm.virtio.vhost.server.backend import BackEnd
from pyvmm.virtio.vsock import vhost as vsock
from tests.support.other_user import UID, listening, needs_root


def make(kind: str, text: str) -> None:
    make_device(DEVICE_KINDS[kind].parse(text)).close()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("/nonexistent/s", "type is missing"),
        ("/nonexistent/s,type=toaster", "neither a number nor one of net"),
        ("/nonexistent/s,type=0", "neither a number"),
        ("/nonexistent/s,type=block,queues=0", "must be from 1"),
        ("/nonexistent/s,type=block,queue-size=100", "not a power of two"),
        ("/nonexistent/s,type=fs", "tag is missing"),
        ("/nonexistent/s,type=fs,tag=t,queues=1", "at least one for others"),
        ("/nonexistent/s,type=rng,colour=red", "'colour' is unknown"),
        ("/nonexistent/s,type=rng,uid=nobody", "is not a number"),
        ("/nonexistent/s,type=rng", "start the back end first"),
    ],
)
def test_words_of_vhost_user_that_make_no_sense_are_one_sentence(text: str, why: str) -> None:
    with pytest.raises(PyvmmError, match=why):
        make("vhost_user", text)


@needs_root
def test_back_end_of_another_user_gets_no_memory_unless_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening(path):
        with pytest.raises(PyvmmError, match=f"user {UID} listens there.* or give uid=N"):
            make("vhost_user", f"{path},type=rng,uid=1")

        channel.connect(str(path), UID).close()


def test_back_end_that_is_slow_to_accept_is_waited_for_and_one_that_never_does_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        monkeypatch.setattr(channel, "PATIENCE", 0.1)
        with pytest.raises(PyvmmError, match=r"accepts no connection within 0\.1 seconds"):
            make("vhost_user", f"{path},type=rng")

        monkeypatch.setattr(channel, "PATIENCE", 10.0)
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(channel.connect, path)
            for _ in range(2):
                listener.accept()[0].close()
            second.result(10).close()


@pytest.mark.parametrize("kind", ["share", "vhost_user"])
def test_memory_is_shared_when_another_process_serves_a_device(kind: str) -> None:
    assert Config(**{kind: "/x"}).shares_memory
    assert not Config(rng=True).shares_memory


def test_host_without_vhost_vsock_is_told_which_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vsock, "DEVICE", "/nonexistent/vhost-vsock")

    with pytest.raises(PyvmmError, match="modprobe vhost_vsock"):
        make("vsock", "3,vhost")


def test_file_that_is_no_vhost_device_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vsock, "DEVICE", "/dev/null")

    with pytest.raises(PyvmmError, match="VHOST_SET_OWNER failed"):
        make("vsock", "3,vhost")


def test_frames_that_the_kernel_moves_cannot_be_captured() -> None:
    assert net.DEVICE == "/dev/vhost-net"
    with pytest.raises(PyvmmError, match="pcap sees no frames"):
        make("net", "tap,vhost,pcap=/nonexistent/file")


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("rng", "rng", {}),
        ("disk=a.img,ro", "disk", {"path": "a.img", "ro": True}),
        ("disk,path=a.img", "disk", {"path": "a.img"}),
        ("./my.py:Thing,speed=3", "device", {"class": "./my.py:Thing", "speed": "3"}),
        ("installed", "device", {"class": "installed"}),
    ],
)
def test_device_to_serve_is_a_kind_or_a_class(text: str, kind: str, values: dict[str, object]) -> None:
    found = parse(text)

    assert (found.kind, found.values) == (kind, values)


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ([], 65, "give one device and --socket"),
        (["rng"], 65, "give one device and --socket"),
        (["rng", "rng", "--socket", "/tmp/x"], 65, "give one device"),
        (["rng", "--socket", "/nonexistent/s"], 64, "choose another path"),
        (["rng", "--socket", "/tmp/" + "x" * 200], 64, "choose another path"),
        (["./nothing.py:Thing", "--socket", "/tmp/x"], 65, "no such Python file"),
        (["vsock=3,vhost", "--socket", "/tmp/x"], 64, "vsock"),
    ],
)
def test_command_line_that_makes_no_sense_is_one_line_and_a_code(
    words: list[str], code: int, why: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyvmm", "device", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert why in done.stderr


def test_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        done = subprocess.run(
            [sys.executable, "-m", "pyvmm", "device", "rng", "--socket", path],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.returncode == 64
    assert Path(path).exists()


def test_file_at_the_sockets_path_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")

    with Loop() as loop, pytest.raises(BackendError, match="is no socket"):
        BackEnd(Rng(), loop, str(path), pytest.fail)

    assert path.read_text() == "precious"


def test_socket_that_took_the_place_of_ours_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Loop() as loop:
        back_end = BackEnd(Rng(), loop, str(path), pytest.fail)
        path.unlink()
        path.write_text("precious")

        back_end.close()

    assert path.read_text() == "precious"
