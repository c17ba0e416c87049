"""Standard input and output as the console: keys, pipes, files, readers that leave."""

from __future__ import annotations

import os
import select
import termios

import pytest

from pyvmm.backends.terminal import Terminal
from pyvmm.loop import Loop
from tests.support.console import Device, until


@pytest.fixture
def loop():
    with Loop() as loop:
        yield loop


@pytest.fixture
def device():
    return Device(room=1000)


class Tty:
    """A terminal whose user is the test; nobody's controlling terminal."""

    def __init__(self):
        self.master, self.slave = os.openpty()
        self.before = termios.tcgetattr(self.master)

    def hang_up(self):
        os.close(self.master)
        self.master = -1
        # A program that is being started has the master for a moment longer, until its execve(2) closes it.
        poll = select.poll()
        poll.register(self.slave, 0)
        assert poll.poll(20_000), "the terminal did not hang up"

    def close(self):
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def tty():
    tty = Tty()
    yield tty
    tty.close()


@pytest.fixture
def open_terminal(loop, device):
    opened = []

    def open_terminal(stdin, stdout, on_quit=None):
        terminal = Terminal(on_quit, stdin, stdout)
        opened.append(terminal)
        device.attach(terminal, loop)
        return terminal

    yield open_terminal
    for terminal in opened:
        terminal.close()


@pytest.fixture
def pipes():
    """stdin reader, stdin writer, stdout reader, stdout writer."""
    fds = [*os.pipe(), *os.pipe()]
    yield fds
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def test_terminal_is_raw_but_keeps_its_output_processing(tty, open_terminal):
    open_terminal(tty.slave, tty.slave)
    iflag, oflag, _, lflag = termios.tcgetattr(tty.master)[:4]
    assert not lflag & (termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
    assert not iflag & (termios.ICRNL | termios.IXON)
    assert oflag == tty.before[1]


def test_terminal_when_closed_is_as_before_with_no_descriptor_left(tty, open_terminal):
    fds = os.listdir("/proc/self/fd")
    terminal = open_terminal(tty.slave, tty.slave)
    terminal.close()
    terminal.close()
    assert termios.tcgetattr(tty.master) == tty.before
    assert os.listdir("/proc/self/fd") == fds


@pytest.mark.parametrize("kind", ["tty", "pipe"])
def test_the_users_descriptors_stay_blocking(tty, pipes, open_terminal, kind):
    stdin, stdout = (tty.slave, tty.slave) if kind == "tty" else (pipes[0], pipes[3])
    open_terminal(stdin, stdout)
    assert os.get_blocking(stdin)
    assert os.get_blocking(stdout)


def test_keys_reach_the_guest_as_they_are(tty, open_terminal, loop, device):
    open_terminal(tty.slave, tty.slave)
    keys = bytes(value for value in range(256) if value != 1)
    os.write(tty.master, keys)
    until(loop, lambda: len(device.received) == len(keys))
    assert device.received == keys


@pytest.mark.parametrize(
    ("keys", "received"),
    [
        (b"\x01\x01", b"\x01"),
        (b"\x01a", b"\x01"),
        (b"\x01q", b"\x01q"),
        (b"l\x01\x01s", b"l\x01s"),
    ],
)
def test_escape_key_can_be_sent(tty, open_terminal, loop, device, keys, received):
    open_terminal(tty.slave, tty.slave)
    for key in keys:
        os.write(tty.master, bytes((key,)))
        loop.run_once(5)
    assert device.received == received


def test_quit_key_is_obeyed_even_while_the_guest_takes_no_input(tty, open_terminal, loop, device):
    device.room = 0
    quits = []
    open_terminal(tty.slave, tty.slave, lambda: quits.append(True))
    for _ in range(40):
        os.write(tty.master, b"x" * 2048)
        loop.run_once(5)
    os.write(tty.master, b"\x01x")
    until(loop, lambda: quits)


def test_break_key_sends_a_break(tty, open_terminal, loop, device):
    breaks = []
    open_terminal(tty.slave, tty.slave).on_break = lambda: breaks.append(True)
    os.write(tty.master, b"\x01b")
    until(loop, lambda: breaks)
    assert device.received == b""


def test_help_key_shows_the_keys(tty, open_terminal, loop, device):
    open_terminal(tty.slave, tty.slave)
    os.write(tty.master, b"\x01h")
    loop.run_once(5)
    assert b"Ctrl-A x" in os.read(tty.master, 4096)
    assert device.received == b""


def test_piped_input_goes_to_the_guest_as_it_is_and_ends(pipes, open_terminal, loop, device):
    open_terminal(pipes[0], pipes[3])
    os.write(pipes[1], b"a\x01x\x03\n")
    os.close(pipes[1])
    pipes[1] = -1
    until(loop, lambda: len(device.received) == 5)
    loop.run_once(5)
    assert device.received == b"a\x01x\x03\n"
    assert loop.run_once(0) == 0


@pytest.mark.parametrize("size", [0, 30_000])
def test_input_from_a_file_is_read_to_its_end_without_spinning(
    pipes, open_terminal, loop, device, tmp_path, size
):
    path = tmp_path / "input"
    path.write_bytes(b"x" * size)
    fd = os.open(path, os.O_RDONLY)
    terminal = open_terminal(fd, pipes[3])
    while len(device.received) < size:
        loop.run_once(5)
        device.room = 1000
        terminal.resume()
    loop.run_once(0)
    loop.run_once(0)
    assert loop.run_once(0) == 0
    assert device.received == b"x" * size
    os.close(fd)


def test_dev_null_as_input_ends_at_once(pipes, open_terminal, loop, device):
    fd = os.open("/dev/null", os.O_RDONLY)
    open_terminal(fd, pipes[3])
    loop.run_once(5)
    assert loop.run_once(0) == 0
    os.close(fd)


def test_output_to_a_slow_pipe_arrives_whole_at_close(pipes, open_terminal, loop):
    terminal = open_terminal(pipes[0], pipes[3])
    written = 0
    while terminal.ready:
        terminal.write(b"x" * 1000)
        written += 1000
    os.set_blocking(pipes[2], False)
    data = b""
    while len(data) < written:
        loop.run_once(0)
        data += os.read(pipes[2], 65536)
    assert data == b"x" * written
    assert terminal.dropped == 0


def test_reader_that_leaves_costs_the_output_and_nothing_else(pipes, open_terminal, loop, device, capfd):
    terminal = open_terminal(pipes[0], pipes[3])
    os.close(pipes[2])
    pipes[2] = -1
    terminal.write(b"nobody")
    loop.run_once(0)
    terminal.write(b"hears")
    os.write(pipes[1], b"in")
    until(loop, lambda: device.received == b"in")
    assert (terminal.dropped, terminal.ready) == (11, True)
    assert capfd.readouterr().err == ""


def test_full_disk_under_the_output_warns_once(pipes, open_terminal, loop, capfd):
    fd = os.open("/dev/full", os.O_WRONLY)
    terminal = open_terminal(pipes[0], fd)
    terminal.write(b"a")
    terminal.write(b"b")
    loop.run_once(0)
    message = capfd.readouterr().err
    assert message.count("\n") == 1
    assert "standard output: No space left on device" in message
    assert terminal.ready
    os.close(fd)


def test_output_to_a_file_keeps_the_place_the_shell_gave(pipes, open_terminal, tmp_path):
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"before ")
    open_terminal(pipes[0], fd).write(b"guest")
    os.write(fd, b" after")
    os.close(fd)
    assert (tmp_path / "log").read_bytes() == b"before guest after"


def test_terminal_that_hangs_up_costs_the_output_and_nothing_else(tty, open_terminal, loop, device):
    terminal = open_terminal(tty.slave, tty.slave)
    tty.hang_up()
    terminal.write(b"nobody")
    until(loop, lambda: loop.run_once(0) == 0)
    terminal.write(b"there")
    assert terminal.ready
    assert terminal.dropped == 11
    terminal.close()


def test_output_while_the_terminal_is_not_read_waits_and_the_loop_does_not_spin(tty, open_terminal, loop):
    terminal = open_terminal(tty.slave, tty.slave)
    written = 0
    while terminal.ready:
        terminal.write(b"x" * 1000)
        written += 1000
    # The kernel moves what it took along by and by, and makes a little room a few times.
    assert any(loop.run_once(0) == 0 for _ in range(50))
    seen = b""

    def all_shown():
        nonlocal seen
        try:
            seen += os.read(tty.master, 65536)
        except BlockingIOError:
            pass
        return len(seen) == written

    os.set_blocking(tty.master, False)
    until(loop, all_shown)
    assert terminal.ready
    assert terminal.dropped == 0
