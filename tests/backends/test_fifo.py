"""The console as a pair of named pipes."""

from __future__ import annotations

import os
import stat

import pytest

from pyvmm.backends.base import BackendError
from pyvmm.backends.fifo import Fifo
from pyvmm.loop import Loop
from tests.support.console import Device, drain, until
from tests.support.other_user import UID, needs_root


@pytest.fixture
def loop():
    with Loop() as loop:
        yield loop


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "data")


@pytest.fixture
def device():
    return Device(room=1000)


@pytest.fixture
def backend(loop, device, path):
    backend = Fifo(path)
    device.attach(backend, loop)
    yield backend
    backend.close()


def test_bytes_pass_both_ways(backend, loop, device, path):
    with open(f"{path}.in", "wb", buffering=0) as pipe:
        pipe.write(b"hello")
    until(loop, lambda: device.received == b"hello")
    backend.write(b"one ")
    assert backend.offer([memoryview(b"two "), memoryview(b"three")]) == 9
    with open(f"{path}.out", "rb", buffering=0) as pipe:
        assert drain(pipe.fileno(), 13) == b"one two three"


def test_output_that_nobody_reads_is_held_until_somebody_does(backend, loop, device, path):
    data = memoryview(os.urandom(200_000))
    taken = backend.offer([data])
    assert 0 < taken < len(data)
    assert (backend.ready, backend.offer([data[taken:]])) == (False, 0)
    loop.run_once(0)
    with open(f"{path}.out", "rb", buffering=0) as pipe:
        assert drain(pipe.fileno(), taken) == data[:taken]
        until(loop, lambda: backend.ready)
        assert device.readied == 1
        assert backend.offer([data[taken : taken + 10]]) == 10
        assert drain(pipe.fileno(), 10) == data[taken : taken + 10]
    assert backend.dropped == 0


def test_writer_may_leave_and_another_come(backend, loop, device, path):
    for word in (b"one", b"two"):
        with open(f"{path}.in", "wb") as pipe:
            pipe.write(word)
    until(loop, lambda: device.received == b"onetwo")


def test_pipes_made_here_are_removed_and_others_stay(loop, device, path):
    os.mkfifo(f"{path}.in")
    backend = Fifo(path)
    device.attach(backend, loop)
    assert stat.S_ISFIFO(os.stat(f"{path}.out").st_mode)
    backend.close()
    backend.close()
    assert (os.path.exists(f"{path}.in"), os.path.exists(f"{path}.out")) == (True, False)


@pytest.mark.parametrize("make", [os.mkdir, lambda path: open(path, "w").close()])
def test_something_else_in_the_place_is_refused_in_one_sentence(loop, device, path, make):
    make(f"{path}.out")
    backend = Fifo(path)
    with pytest.raises(BackendError, match=rf"{path}\.out"):
        device.attach(backend, loop)
    backend.close()


@needs_root
def test_pipe_of_another_user_is_refused(loop, device, path):
    os.mkfifo(f"{path}.out", 0o666)
    os.chown(f"{path}.out", UID, UID)
    backend = Fifo(path)
    with pytest.raises(BackendError, match=f"is of user {UID}, neither you nor root"):
        device.attach(backend, loop)
    backend.close()
