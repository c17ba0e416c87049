"""Console output into a file."""

from __future__ import annotations

import os

import pytest

from pyvmm.backends.base import BackendError
from pyvmm.backends.file import OutputFile
from pyvmm.loop import Loop


@pytest.fixture
def attach():
    opened = []
    with Loop() as loop:

        def attach(backend):
            opened.append(backend)
            backend.attach(loop, lambda data: None, lambda: 0)
            return backend

        yield attach
        for backend in opened:
            backend.close()


def test_file_when_opened_is_emptied(attach, tmp_path):
    path = tmp_path / "log"
    path.write_text("old")
    attach(OutputFile(str(path))).write(b"new")
    assert path.read_bytes() == b"new"


def test_file_when_appending_keeps_what_is_there(attach, tmp_path):
    path = tmp_path / "log"
    path.write_text("old ")
    attach(OutputFile(str(path), append=True)).write(b"new")
    assert path.read_bytes() == b"old new"


def test_full_disk_warns_once_and_the_guest_goes_on(attach, capfd):
    backend = attach(OutputFile("/dev/full"))
    backend.write(b"abc")
    backend.write(b"def")
    assert (backend.dropped, backend.ready) == (6, True)
    message = capfd.readouterr().err
    assert message.count("\n") == 1
    assert "/dev/full: No space left on device" in message


@pytest.mark.parametrize("kind", ["directory", "fifo", "fifo with a reader", "missing directory", "socket"])
def test_path_that_is_no_file_is_refused_with_its_name(attach, tmp_path, kind):
    path = tmp_path / "thing"
    reader = -1
    if kind == "directory":
        path.mkdir()
    elif kind == "missing directory":
        path = path / "file"
    elif kind == "socket":
        path = tmp_path / "sock"
        import socket

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        os.mkfifo(path)
        if kind == "fifo with a reader":
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(BackendError, match=str(path)):
        attach(OutputFile(str(path)))
    if reader >= 0:
        os.close(reader)


def test_write_after_close_is_dropped(attach, tmp_path):
    backend = attach(OutputFile(str(tmp_path / "log")))
    backend.close()
    backend.write(b"late")
    assert backend.dropped == 4
