"""A pty that programs come to and leave."""

from __future__ import annotations

import os
import termios

import pytest

from pyvmm.backends.pty import Pty
from pyvmm.loop import Loop
from tests.support.console import Device, drain, until


@pytest.fixture
def loop():
    with Loop() as loop:
        yield loop


@pytest.fixture
def device():
    return Device(room=1000)


@pytest.fixture
def pty(loop, device):
    backend = Pty()
    device.attach(backend, loop)
    yield backend
    backend.close()


def program(pty):
    return os.open(pty.path, os.O_RDWR | os.O_NOCTTY)


def test_pty_names_its_slave(pty):
    assert os.path.exists(pty.path)
    assert pty.describe() == f"pty {pty.path}"


def test_output_without_a_program_is_dropped_and_the_guest_goes_on(pty, loop):
    for _ in range(200):
        pty.write(b"x" * 1000)
        loop.run_once(0)
    assert pty.ready
    assert pty.dropped == 200_000


def test_bytes_pass_both_ways_as_they_are(pty, loop, device):
    fd = program(pty)
    until(loop, lambda: pty.connected)
    every = bytes(range(256))
    pty.write(every)
    assert drain(fd, 256) == every
    os.write(fd, every)
    until(loop, lambda: len(device.received) >= 256)
    assert device.received == every
    os.close(fd)


def test_pty_is_in_raw_mode_without_echo(pty):
    fd = program(pty)
    assert not termios.tcgetattr(fd)[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    os.close(fd)


def test_program_that_leaves_can_come_back(pty, loop, device):
    for round_ in range(3):
        fd = program(pty)
        until(loop, lambda: pty.connected)
        os.write(fd, b"%d" % round_)
        until(loop, lambda: len(device.received) == round_ + 1)  # noqa: B023
        os.close(fd)
        until(loop, lambda: not pty.connected)
    assert device.received == b"012"


def test_loop_does_not_spin_while_nobody_is_there(pty, loop):
    os.close(program(pty))
    until(loop, lambda: not pty.connected)
    loop.run_once(0)
    assert loop.run_once(0) == 0


def test_program_that_leaves_with_output_waiting_frees_the_guest(pty, loop, device):
    fd = program(pty)
    until(loop, lambda: pty.connected)
    while pty.ready:
        pty.write(b"x" * 1000)
    loop.run_once(0)
    os.close(fd)
    until(loop, lambda: pty.ready)
    assert device.readied == 1
    assert not pty.connected


def test_close_hangs_up_and_gives_back_every_descriptor(loop, device):
    before = os.listdir("/proc/self/fd")
    backend = Pty()
    device.attach(backend, loop)
    fd = program(backend)
    until(loop, lambda: backend.connected)
    backend.close()
    backend.close()
    with pytest.raises(OSError, match="Input/output error"):
        os.write(fd, b"x")
    os.close(fd)
    assert os.listdir("/proc/self/fd") == before
