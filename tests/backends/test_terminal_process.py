"""The terminal of a whole process: signals, job control, defects; always put back."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

GUEST = Path(__file__).parents[1] / "support" / "terminal_guest.py"
LIMIT = 30.0


class Session:
    """The guest process with a pty as its controlling terminal; the test holds the master."""

    def __init__(self, *arguments):
        self.master, slave = os.openpty()
        self.before = termios.tcgetattr(self.master)
        self.process = subprocess.Popen(
            [sys.executable, str(GUEST), *arguments],
            preexec_fn=lambda: os.login_tty(slave),
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "."},
        )
        os.close(slave)

    def expect(self, text):
        """Read the terminal until *text* comes."""
        seen = b""
        end = time.monotonic() + LIMIT
        while text not in seen:
            assert select.select([self.master], [], [], end - time.monotonic())[0], seen
            seen += os.read(self.master, 4096)
        return seen

    def press(self, keys):
        os.write(self.master, keys)

    @property
    def raw(self):
        return not termios.tcgetattr(self.master)[3] & (termios.ICANON | termios.ECHO)

    def until(self, condition):
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end
            select.select([], [], [], 0.005)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.master >= 0:
            os.close(self.master)


@pytest.fixture
def session():
    sessions = []

    def start(*arguments):
        sessions.append(Session(*arguments))
        return sessions[-1]

    yield start
    for each in sessions:
        each.close()


def test_quit_key_ends_and_puts_the_terminal_back(session):
    terminal = session()
    terminal.expect(b"READY")
    assert terminal.raw
    terminal.press(b"k")
    terminal.expect(b"<k>")
    terminal.press(b"\x01x")
    assert terminal.process.wait(LIMIT) == 3
    assert termios.tcgetattr(terminal.master) == terminal.before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_and_puts_the_terminal_back(session, number):
    terminal = session()
    terminal.expect(b"READY")
    terminal.process.send_signal(number)
    assert terminal.process.wait(LIMIT) == 3
    assert termios.tcgetattr(terminal.master) == terminal.before


def test_interrupt_key_goes_to_the_guest(session):
    terminal = session()
    terminal.expect(b"READY")
    terminal.press(b"\x03")
    terminal.expect(b"<\x03>")


def test_exception_puts_the_terminal_back(session):
    terminal = session("raise")
    terminal.expect(b"READY")
    terminal.press(b"e")
    assert terminal.process.wait(LIMIT) == 1
    assert termios.tcgetattr(terminal.master) == terminal.before


def test_stopped_job_puts_the_terminal_back_and_takes_it_again(session):
    terminal = session()
    terminal.expect(b"READY")
    terminal.process.send_signal(signal.SIGTSTP)
    _, status = os.waitpid(terminal.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert termios.tcgetattr(terminal.master) == terminal.before
    terminal.process.send_signal(signal.SIGCONT)
    terminal.until(lambda: terminal.raw)
    terminal.press(b"k")
    terminal.expect(b"<k>")
    terminal.press(b"\x01x")
    assert terminal.process.wait(LIMIT) == 3
    assert termios.tcgetattr(terminal.master) == terminal.before


def test_terminal_changed_while_stopped_by_sigstop_is_raw_again_and_restored_as_it_was_first(session):
    terminal = session()
    terminal.expect(b"READY")
    terminal.process.send_signal(signal.SIGSTOP)
    os.waitpid(terminal.process.pid, os.WUNTRACED)
    termios.tcsetattr(terminal.master, termios.TCSANOW, terminal.before)
    terminal.process.send_signal(signal.SIGCONT)
    terminal.until(lambda: terminal.raw)
    terminal.process.terminate()
    assert terminal.process.wait(LIMIT) == 3
    assert termios.tcgetattr(terminal.master) == terminal.before


def test_background_job_leaves_the_terminal_alone_until_it_comes_to_the_foreground(session):
    terminal = session("background")
    terminal.expect(b"READY")
    assert not terminal.raw
    terminal.process.send_signal(signal.SIGUSR1)
    terminal.until(lambda: terminal.raw)
    terminal.press(b"k")
    terminal.expect(b"<k>")
    terminal.press(b"\x01x")
    assert terminal.process.wait(LIMIT) == 3
    assert termios.tcgetattr(terminal.master) == terminal.before


def test_terminal_that_goes_away_ends_by_sighup_and_does_not_hang(session):
    terminal = session()
    terminal.expect(b"READY")
    os.close(terminal.master)
    terminal.master = -1
    assert terminal.process.wait(LIMIT) == 3
