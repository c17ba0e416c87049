"""Listening sockets at paths of the user's, and those between us and a program we start."""

import os
import socket
import stat
from pathlib import Path

import pytest

from pyvmm.backends.base import BackendError
from pyvmm.backends.listener import PATH_MAX, Listener, private_pair

KINDS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


@KINDS
def test_listener_when_made_is_its_users_alone_and_does_not_block(path: str, kind: int) -> None:
    listener = Listener(path, kind)
    mode = stat.S_IMODE(os.stat(path).st_mode)

    with pytest.raises(BlockingIOError):
        listener.socket.accept()
    listener.close()

    assert mode == 0o600


def test_close_when_the_file_is_still_ours_removes_it(path: str) -> None:
    listener = Listener(path)

    listener.close()
    listener.close()

    assert not os.path.exists(path)


def test_close_when_another_socket_took_the_place_leaves_it(path: str) -> None:
    listener = Listener(path)
    os.unlink(path)
    other = Listener(path)

    listener.close()

    assert os.path.exists(path)
    other.close()


@KINDS
def test_listener_when_the_socket_there_is_dead_replaces_it(path: str, kind: int) -> None:
    with socket.socket(socket.AF_UNIX, kind) as dead:
        dead.bind(path)
        dead.listen()

    listener = Listener(path, kind)
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(path)
        listener.socket.accept()[0].close()
    listener.close()


@KINDS
def test_listener_when_somebody_listens_is_refused(path: str, kind: int) -> None:
    first = Listener(path, kind)

    with pytest.raises(BackendError, match=f"somebody listens on socket {path} already; choose another"):
        Listener(path, kind)
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(path)
    first.close()


@pytest.mark.parametrize("mine", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_listener_when_one_of_another_kind_listens_is_refused(path: str, mine: int) -> None:
    other = socket.SOCK_STREAM if mine == socket.SOCK_SEQPACKET else socket.SOCK_SEQPACKET
    first = Listener(path, other)

    with pytest.raises(BackendError, match="choose another path"):
        Listener(path, mine)
    assert os.path.exists(path)
    first.close()


def test_listener_when_a_file_is_there_leaves_it_alone(path: str) -> None:
    Path(path).write_text("precious")

    with pytest.raises(BackendError, match=f"{path} exists and is no socket"):
        Listener(path)

    assert Path(path).read_text() == "precious"


@pytest.mark.parametrize("bad", ["/nonexistent/s", "/tmp/" + "x" * (PATH_MAX - 4)])
def test_listener_when_the_path_cannot_be_says_so(bad: str) -> None:
    before = os.listdir("/proc/self/fd")

    with pytest.raises(BackendError, match=f"{bad}.*choose another path"):
        Listener(bad)

    assert os.listdir("/proc/self/fd") == before


def test_private_pair_is_connected_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    listener, link = private_pair()
    with listener, link, listener.accept()[0] as other:
        link.send(b"hello")

        assert other.recv(10) == b"hello"
    assert os.listdir(tmp_path) == []


def test_private_pair_when_there_is_no_room_for_it_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = str(tmp_path / "nowhere")
    monkeypatch.setattr("tempfile.tempdir", nowhere)

    with pytest.raises(BackendError, match=f"{nowhere}.*TMPDIR"):
        private_pair()
