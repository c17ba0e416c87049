"""A Linux guest reached from another process: ``pyvmm exec``, ``console``, ``stop``."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import pyvmm
from tests.support.command import MODULE, OnTerminal, environment, start
from tests.support.native import CONSOLE

WATCHDOG = 240
LIMIT = 120
pytestmark = [pytest.mark.hw, pytest.mark.timeout(WATCHDOG + 30)]

QUIET = f"console={CONSOLE} quiet panic=-1"


@pytest.fixture(scope="module", autouse=True)
def runtime() -> Iterator[Path]:
    """These guests have a directory of sockets of their own."""
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory(prefix="pyvmm-") as folder:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.fixture(scope="module")
def guest(runtime: Path) -> Iterator[pyvmm.Guest]:
    with pyvmm.Guest(name="web", cmdline=QUIET, timeout=20 * WATCHDOG) as guest:
        guest.wait_ready(LIMIT)
        yield guest


def command(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """``pyvmm``, which may wait for a boot."""
    return subprocess.run(
        [*MODULE, *words], input=stdin, capture_output=True, timeout=LIMIT, check=False, env=environment()
    )


def inside(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return command("exec", "web", *words, stdin=stdin)


def test_status_outputs_and_input_are_those_of_a_local_command(guest: pyvmm.Guest) -> None:
    done = inside("--", "sh", "-c", "cat; echo err >&2; exit 7", stdin=b"typed\n")

    assert (done.returncode, done.stdout, done.stderr) == (7, b"typed\n", b"err\n")
    assert inside("no-such-program").returncode == 127
    assert inside("sh", "-c", "kill -TERM $$").returncode == 128 + 15


def test_bytes_pass_unchanged_in_both_directions(guest: pyvmm.Guest) -> None:
    data = os.urandom(1_000_000)

    done = inside("cat", stdin=data)

    assert (done.returncode, done.stderr) == (0, b"")
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_several_processes_and_the_owner_run_commands_at_once(guest: pyvmm.Guest) -> None:
    wait = "touch /tmp/w$0; until [ $(ls /tmp/w* | wc -l) = 3 ]; do usleep 20000; done; echo $0"
    others = [start("exec", "web", "sh", "-c", wait, str(n)) for n in (1, 2)]

    mine = guest.run(["sh", "-c", wait, "3"], timeout=LIMIT)

    assert mine.stdout == "3\n"
    outputs = [other.communicate(timeout=LIMIT) for other in others]
    assert outputs == [(b"1\n", b""), (b"2\n", b"")]


def test_interrupt_goes_to_the_command(guest: pyvmm.Guest) -> None:
    process = start(
        "exec",
        "web",
        "sh",
        "-c",
        "trap 'echo caught; exit 9' INT; echo ready; while :; do usleep 20000; done",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=LIMIT) == (b"caught\n", b"")
    assert process.returncode == 9


def test_command_ends_when_its_user_is_killed_or_leaves_by_a_second_signal(guest: pyvmm.Guest) -> None:
    for number, again in ((signal.SIGKILL, False), (signal.SIGTERM, True)):
        script = "trap 'echo caught' TERM; echo $$; while :; do usleep 20000; done"
        process = start("exec", "web", "sh", "-c", script)
        assert process.stdout is not None
        pid = process.stdout.readline().decode().strip()
        process.send_signal(number)
        if again:
            assert process.stdout.readline() == b"caught\n"
            process.send_signal(number)
        assert process.wait(LIMIT) in (-9, 128 + 15)
        process.communicate()
        guest.wait_until_fails(f"test -e /proc/{pid}", LIMIT)


def test_output_into_a_pipe_that_is_closed_ends_the_command(guest: pyvmm.Guest) -> None:
    process = start("exec", "web", "sh", "-c", "echo $$; exec cat /dev/zero")
    assert process.stdout is not None
    pid = process.stdout.readline().decode().strip()
    process.stdout.close()

    assert process.wait(LIMIT) == 128 + 13
    assert process.stderr is not None
    process.stderr.close()
    guest.wait_until_fails(f"test -e /proc/{pid}", LIMIT)


def test_slow_reader_slows_only_its_own_command(guest: pyvmm.Guest) -> None:
    process = start("exec", "web", "sh", "-c", "cat /dev/zero")
    assert process.stdout is not None
    assert process.stdout.read(1) == b"\0"

    assert guest.run("echo fast", timeout=LIMIT).stdout == "fast\n"
    assert inside("echo", "fast").stdout == b"fast\n"
    process.kill()
    process.communicate()


def test_terminal_has_size_interrupts_and_is_put_back(guest: pyvmm.Guest) -> None:
    terminal = OnTerminal("exec", "web", "sh", "-c", "tty; stty size; read line; echo got $line; cat; exit 5")
    try:
        terminal.expect(b"/dev/pts/")
        assert terminal.raw
        terminal.press(b"words\r")
        terminal.expect(b"got words")
        terminal.press(b"\x03")
        assert terminal.wait() == 128 + 2
        assert terminal.restored
    finally:
        terminal.close()


def test_console_of_the_guest_is_attached_to_and_left(guest: pyvmm.Guest) -> None:
    terminal = OnTerminal("console", "web")
    try:
        terminal.press(b"\r")
        terminal.expect(b"~ # ")
        terminal.press(b"echo $((6*7))\r")
        terminal.expect(b"42\r")
        terminal.press(b"\x01x")
        assert terminal.wait() == 0
    finally:
        terminal.close()
    guest.console.expect("42\r\n", LIMIT)


def test_guest_of_pyvmm_run_is_reached_and_stopped() -> None:
    options = ["--console", "none", "--cmdline", QUIET, "--timeout", str(WATCHDOG)]
    process = start("run", "--name", "run", *options)
    try:
        # Waits until the guest has booted.
        done = command("exec", "run", "--", "uname", "-s")
        while done.returncode == 65 and process.poll() is None:  # not started yet
            done = command("exec", "run", "--", "uname", "-s")
        assert (done.returncode, done.stdout) == (0, b"Linux\n"), done
        terminal = OnTerminal("console", "run")
        try:
            terminal.press(b"\r")
            terminal.expect(b"~ # ")
        finally:
            terminal.close()
        stopped = command("stop", "run", "--timeout", "100s")
        assert (stopped.returncode, stopped.stderr) == (0, b"")
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        process.communicate()


def test_command_in_a_guest_that_ends_is_a_crash(runtime: Path) -> None:
    with pyvmm.Guest(name="short", cmdline=QUIET, timeout=WATCHDOG) as guest:
        guest.wait_ready(LIMIT)
        process = start("exec", "short", "sh", "-c", "echo ready; sleep 1000")
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        guest.kill()
        output = process.communicate(timeout=LIMIT)
    assert process.returncode == 7
    assert output == (b"", b"pyvmm: guest 'short' ended before the command had\n")
