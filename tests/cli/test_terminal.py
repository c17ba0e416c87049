"""``pyvmm run`` on a terminal: keys, signals at any moment, job control; always put back."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.command import (
    BIN,
    EXIT,
    HLT,
    LAUNCHER,
    LIMIT,
    MODULE,
    PASSED,
    SPIN,
    OnTerminal,
    environment,
    until,
)

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

ECHO = str(BIN / "echo.bin")
ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
OTHERS = [
    signal.SIGQUIT,
    signal.SIGABRT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGXCPU,
    signal.SIGPROF,
]
#: No program can handle the first; the others are those of a crash of its own.
DEADLY = [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGRTMIN]
#: A shell that outlives its command, as a user's does: the end of a session's leader hangs up the terminal.
IN_A_SHELL = ["sh", "-c", 'ulimit -c 0; "$@"; read line; exit 5', "sh"]
Start = Callable[..., OnTerminal]


@pytest.fixture
def run() -> Iterator[Start]:
    """Starts ``pyvmm run`` of a guest program on a terminal."""
    sessions = []

    def start(program: str, *options: str, way: list[str] = MODULE) -> OnTerminal:
        sessions.append(OnTerminal("run", "--firmware", program, "--memory", "4M", *options, way=way))
        return sessions[-1]

    yield start
    for session in sessions:
        session.close()


def test_quit_key_ends_with_code_3_and_puts_the_terminal_back(run: Start) -> None:
    terminal = run(SPIN)
    terminal.expect(b"spinning")
    assert terminal.raw

    terminal.press(b"\x01x")

    assert terminal.wait() == 3
    assert terminal.restored
    assert b"pyvmm: stopped: ended by the user" in terminal.rest


def test_keys_reach_the_guest_and_its_answers_the_terminal(run: Start) -> None:
    terminal = run(ECHO)
    terminal.expect(b"ready")

    terminal.press(b"hello\x03")  # Ctrl-C is the guest's
    terminal.expect(b"hello\x03")
    terminal.press(b"\x04")

    assert terminal.wait() == PASSED
    assert terminal.restored


def test_help_key_tells_the_keys(run: Start) -> None:
    terminal = run(HLT)
    terminal.expect(b"halting")

    terminal.press(b"\x01h")

    terminal.expect(b"Ctrl-A x")


@pytest.mark.parametrize("number", OTHERS)
def test_signal_that_ends_a_process_ends_the_guest_and_leaves_a_record(
    run: Start, number: signal.Signals, tmp_path: Path
) -> None:
    result = tmp_path / "result"
    terminal = run(SPIN, "--result", str(result))
    terminal.expect(b"ing")

    terminal.signal(number)

    assert terminal.wait() == 3
    assert terminal.restored
    assert json.loads(result.read_text())["detail"] == f"ended by {number.name}"


@pytest.mark.parametrize("number", DEADLY)
def test_terminal_of_a_process_that_can_do_nothing_itself_is_put_back(
    run: Start, number: signal.Signals
) -> None:
    terminal = run(SPIN, way=[*IN_A_SHELL, *MODULE])
    terminal.expect(b"ing")
    assert terminal.raw
    shell = terminal.process.pid
    process = int(Path(f"/proc/{shell}/task/{shell}/children").read_text())

    os.kill(process, number)

    until(lambda: terminal.restored)
    terminal.press(b"\n")
    assert terminal.wait() == 5


def test_terminal_that_somebody_else_has_changed_meanwhile_is_left_alone(run: Start) -> None:
    terminal = run(SPIN, way=[*IN_A_SHELL, *MODULE])
    terminal.expect(b"ing")
    shell = terminal.process.pid
    process = int(Path(f"/proc/{shell}/task/{shell}/children").read_text())
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    (guard,) = [pid for pid in children if Path(f"/proc/{pid}/comm").read_text() in ("sh\n", "dash\n")]
    theirs = termios.tcgetattr(terminal.master)
    theirs[3] |= termios.ISIG
    termios.tcsetattr(terminal.master, termios.TCSANOW, theirs)

    os.kill(process, signal.SIGKILL)

    until(lambda: not os.path.exists(f"/proc/{guard}"))
    assert termios.tcgetattr(terminal.master) == theirs
    terminal.press(b"\n")
    terminal.wait()


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("program", [SPIN, HLT], ids=["spin", "hlt"])
def test_signal_when_running_ends_with_code_3_and_puts_the_terminal_back(
    run: Start, program: str, number: signal.Signals
) -> None:
    terminal = run(program)
    terminal.expect(b"ing")

    terminal.signal(number)

    assert terminal.wait() == 3
    assert terminal.restored
    assert f"ended by {number.name}".encode() in terminal.rest


@pytest.mark.parametrize("number", ENDING)
def test_signal_at_any_moment_puts_the_terminal_back_and_shows_no_traceback(
    run: Start, number: signal.Signals
) -> None:
    # A seed of its own each, so that a failure can be had again: from start to well into the guest.
    way = LAUNCHER if os.path.exists(LAUNCHER[0]) else MODULE
    moments = random.Random(number)
    for _ in range(12):
        terminal = run(SPIN, way=way)
        time.sleep(moments.uniform(0.0, 0.12))  # the moment is what is varied
        terminal.signal(number)

        code, said = terminal.wait(), terminal.rest
        assert terminal.restored
        if b"Traceback" in said and number == signal.SIGINT:
            # Python itself tells of a Ctrl-C before our first line runs; none of ours is in it.
            assert b"Fatal Python error: init" in said or b'"<string>", line 0' in said
        else:
            # 3 once the machine is being built, else the signal's own effect.
            assert code in (3, -number)
            assert b"Traceback" not in said


def test_timeout_puts_the_terminal_back(run: Start) -> None:
    terminal = run(SPIN, "--timeout", "300ms")

    assert terminal.wait() == 3
    assert terminal.restored


def test_guest_that_ends_by_itself_puts_the_terminal_back(run: Start) -> None:
    terminal = run(str(BIN / "triple_fault.bin"))

    assert terminal.wait() == 7
    assert terminal.restored


def test_restart_keeps_the_quit_key(run: Start) -> None:
    terminal = run(str(BIN / "reset_i8042.bin"), "--on-reboot", "restart")
    until(lambda: terminal.raw)

    terminal.press(b"\x01x")

    assert terminal.wait() == 3
    assert terminal.restored


def test_terminal_that_goes_away_ends_the_guest(run: Start) -> None:
    terminal = run(SPIN)
    terminal.expect(b"spinning")

    terminal.hang_up()

    assert terminal.wait() == 3


def test_job_when_stopped_puts_the_terminal_back_and_takes_it_again(run: Start) -> None:
    terminal = run(ECHO)
    terminal.expect(b"ready")

    terminal.signal(signal.SIGTSTP)
    assert terminal.stopped()
    assert terminal.restored

    terminal.signal(signal.SIGCONT)
    until(lambda: terminal.raw)
    terminal.press(b"on")
    terminal.expect(b"on")
    terminal.press(b"\x04")
    assert terminal.wait() == PASSED
    assert terminal.restored


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
def test_job_without_a_terminal_for_console_stops_and_goes_on(number: int) -> None:
    process = subprocess.Popen(
        [*MODULE, "run", "--firmware", SPIN, "--console", "pty", "--memory", "4M"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stderr is not None
    try:
        assert process.stderr.readline().startswith(b"pyvmm: the console is pty /dev/pts/")
        process.send_signal(number)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 3
    finally:
        process.kill()
        process.communicate()


def test_signal_that_was_ignored_from_the_start_as_by_nohup_stays_ignored() -> None:
    process = subprocess.Popen(
        [
            "sh",
            "-c",
            'trap "" HUP INT; exec "$@"',
            "sh",
            *MODULE,
            "run",
            "--firmware",
            SPIN,
            "--memory",
            "4M",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"spinning\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)  # taken after the others, were they taken at all

        _, complaint = process.communicate(timeout=LIMIT)

        assert process.returncode == 3
        assert b"ended by SIGTERM" in complaint
    finally:
        process.kill()
        process.communicate()


def test_exit_code_when_the_terminal_is_closed_with_the_last_output_is_the_guests() -> None:
    # The kernel hangs up the process that still has the terminal; in 20 runs some would end by SIGHUP.
    for _ in range(20):
        master, slave = os.openpty()
        command = [*MODULE, "run", "--firmware", EXIT, "--console", "none"]
        process = subprocess.Popen(command, preexec_fn=lambda: os.login_tty(slave), env=environment())  # noqa: B023
        os.close(slave)
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while os.read(master, 4096):
                pass
        os.close(master)

        assert process.wait(LIMIT) == PASSED
