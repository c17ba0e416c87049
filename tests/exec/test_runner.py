"""A command of the guest on our own descriptors: pipes, files, a terminal."""

from __future__ import annotations

import os
import select
import termios
import threading

import pytest

from pyvmm.exec.client import ExecClient, ExecLostError
from pyvmm.exec.frames import GUEST_HELLO, VERSION, encode
from pyvmm.exec.request import Request
from pyvmm.exec.runner import PTY_WINDOW, ExecRunner
from pyvmm.loop import READ, Loop

LIMIT = 60


class Bench:
    """A loop, a runner over the server's pty, and pipes for its three descriptors."""

    def __init__(self, fd, loop):
        self.fd = fd
        self.loop = loop
        self.status = None
        self.late = False
        self.stdin, self.feed = os.pipe()
        self.read_out, self.stdout = os.pipe()
        self.read_err, self.stderr = os.pipe()
        self.unsent = b""
        self.client = ExecClient(self.send)
        self.open = {self.stdin, self.feed, self.read_out, self.stdout, self.read_err, self.stderr}

    def start(self, request, **given):
        fds = {"stdin": self.stdin, "stdout": self.stdout, "stderr": self.stderr, **given}
        self.runner = ExecRunner(self.loop, self.client, request, self.ended, **fds)
        self.client.connect()
        self.loop.add(self.fd, READ, lambda events: self.client.receive(os.read(self.fd, 65536)))
        self.loop.call_later(LIMIT, self.give_up)

    def send(self, data):
        self.unsent += data
        self.push()

    def push(self):
        try:
            self.unsent = self.unsent[os.write(self.fd, self.unsent) :]
        except BlockingIOError:
            pass
        if self.unsent:
            self.loop.call_soon(self.push)

    def ended(self, status):
        self.status = status
        self.loop.stop()

    def give_up(self):
        self.late = True
        self.loop.stop()

    def run(self):
        """The command's status; output that fits into pipes can be read afterwards."""
        self.loop.run()
        assert not self.late, "the command did not end in time"
        return self.status

    def close(self, *fds):
        for fd in fds or tuple(self.open):
            os.close(fd)
            self.open.discard(fd)


@pytest.fixture
def bench(channel):
    with Loop() as loop:
        bench = Bench(channel[0], loop)
        yield bench
        bench.runner.close()
        bench.close()


def drained(fd):
    os.set_blocking(fd, False)
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return b""


def test_command_when_joined_to_pipes_passes_all_three(bench):
    os.write(bench.feed, b"one two\n")
    bench.close(bench.feed)
    bench.start(Request.shell("cat; echo bad >&2; exit 4"))
    assert bench.run() == 4
    assert drained(bench.read_out) == b"one two\n"
    assert drained(bench.read_err) == b"bad\n"


def test_files_when_larger_than_every_buffer_arrive_whole(bench, tmp_path):
    data = os.urandom(500_000)
    (tmp_path / "in").write_bytes(data)
    with open(tmp_path / "in", "rb") as given, open(tmp_path / "out", "wb") as taken:
        bench.start(Request(["cat"]), stdin=given.fileno(), stdout=taken.fileno())
        assert bench.run() == 0
    assert (tmp_path / "out").read_bytes() == data


def test_output_when_the_reader_is_slow_waits_in_the_guest(bench):
    bench.start(Request.shell("head -c 1000000 /dev/zero"))
    most = 0
    got = bytearray()
    asleep = threading.Event()

    def read_slowly():
        asleep.wait(LIMIT)
        while len(got) < 1_000_000:
            got.extend(os.read(bench.read_out, 100_000))

    reader = threading.Thread(target=read_slowly)
    reader.start()
    output = bench.runner._outputs[0]
    while bench.status is None and not bench.late:
        bench.loop.run_once(0.05)
        most = max(most, len(output.waiting))
        if len(output.waiting) > 20_000:
            asleep.set()
    reader.join(LIMIT)
    assert bench.status == 0
    assert 20_000 < most <= 65536
    assert got == bytes(1_000_000)


def test_command_when_our_reader_went_away_gets_sigpipe(bench):
    bench.close(bench.read_out)
    bench.start(Request(["yes"]))
    assert bench.run() == 128 + 13


def test_command_when_our_stdin_is_closed_sees_its_end(bench):
    bench.close(bench.stdin)
    bench.start(Request(["cat"]))
    assert bench.run() == 0


def test_command_when_it_ends_before_its_input_does_ends_the_run(bench):
    bench.start(Request(["true"]))
    assert bench.run() == 0


def test_signal_reaches_the_command(bench):
    bench.start(Request.shell("echo on; exec sleep 1000"))
    while not drained(bench.read_out):
        bench.loop.run_once(1)
        assert not bench.late
    bench.runner.signal(15)
    assert bench.run() == 128 + 15


def test_terminal_when_the_command_has_a_pty_is_raw_meanwhile(bench):
    master, slave = os.openpty()
    try:
        before = termios.tcgetattr(slave)
        size = (33, 77)
        bench.start(
            Request.shell("stty size; read line; echo got $line", pty=size, window=PTY_WINDOW),
            stdin=slave,
            stdout=slave,
        )
        bench.loop.run_once(0)
        assert not termios.tcgetattr(slave)[3] & (termios.ICANON | termios.ECHO)
        os.write(master, b"word\r")
        assert bench.run() == 0
        assert termios.tcgetattr(slave)[3] == before[3]
        shown = b""
        while b"got word" not in shown:
            assert select.select([master], [], [], LIMIT)[0]
            shown += os.read(master, 4096)
        assert b"33 77" in shown
    finally:
        os.close(master)
        os.close(slave)


def test_terminal_when_much_is_shown_loses_nothing(bench):
    master, slave = os.openpty()
    got = bytearray()

    def show():
        while not got.endswith(b"END"):
            got.extend(os.read(master, 65536))

    reader = threading.Thread(target=show)
    reader.start()
    try:
        bench.start(
            Request.shell("seq 30000; printf END", pty=(24, 80), window=PTY_WINDOW), stdin=slave, stdout=slave
        )
        assert bench.run() == 0
        reader.join(LIMIT)
        assert got.split() == [b"%d" % number for number in range(1, 30001)] + [b"END"]
    finally:
        os.close(slave)
        os.close(master)


def test_guest_when_it_begins_anew_ends_the_run_with_an_error(bench):
    bench.start(Request(["cat"]))
    while not bench.client.ready:
        bench.loop.run_once(1)
        assert not bench.late
    with pytest.raises(ExecLostError, match="began anew"):
        bench.client.receive(encode(GUEST_HELLO, 0, bytes([VERSION, 0, 0, 0]) + bytes(12)))
