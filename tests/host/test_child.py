"""Helper programs: what they inherit, how they end."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.host.child import FIRST_FD, Child, spawn

pytestmark = pytest.mark.timeout(120)
needs_setpriv = pytest.mark.skipif(
    shutil.which("setpriv") is None, reason="there is no setpriv (Debian: util-linux)"
)


@pytest.fixture
def output() -> Iterator[int]:
    """A file for a child's output."""
    fd = os.memfd_create("output")
    yield fd
    os.close(fd)


def said(child: Child, output: int) -> str:
    """All that *child* wrote, at its end."""
    assert child.wait(60) == 0
    return os.pread(output, 1 << 20, 0).decode()


def test_child_has_the_descriptors_that_it_is_given_and_no_other(output: int) -> None:
    mine, held = os.memfd_create("given"), os.memfd_create("kept")
    os.set_inheritable(held, True)
    os.write(mine, b"given")
    left, right = socket.socketpair()
    right.set_inheritable(True)

    child = spawn(
        ["sh", "-c", f"cat /dev/fd/{FIRST_FD}; exec ls /proc/self/fd"],
        fds=[mine, left.fileno()],
        output=output,
    )
    found = said(child, output)
    for fd in (mine, held):
        os.close(fd)
    left.close()
    right.close()

    assert found.split() == ["given0", *"12345"]  # the last is the folder that ls lists


def test_descriptors_come_in_their_order_whatever_their_numbers_are(output: int) -> None:
    files = [os.memfd_create(f"file{n}") for n in range(6)]
    for n, fd in enumerate(files):
        os.write(fd, f"{n}".encode())
    order = [5, 0, 4, 1, 3, 2]

    child = spawn(
        ["sh", "-c", "cat /dev/fd/3 /dev/fd/4 /dev/fd/5 /dev/fd/6 /dev/fd/7 /dev/fd/8"],
        fds=[files[n] for n in order],
        output=output,
    )

    assert said(child, output) == "504132"
    for fd in files:
        os.close(fd)


def test_environment_has_a_path_a_language_and_what_is_named(
    output: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "of the user's")
    monkeypatch.setenv("TMPDIR", "/var/tmp")

    child = spawn(["env"], output=output, keep=["TMPDIR", "NOT_SET"])

    names = {line.partition("=")[0] for line in said(child, output).splitlines()}
    assert names == {"PATH", "LANG", "TMPDIR"}


@needs_setpriv
def test_child_can_gain_no_privileges_and_this_process_can(output: int) -> None:
    before = Path("/proc/thread-self/status").read_text().count("NoNewPrivs:\t1")

    child = spawn(["grep", "NoNewPrivs", "/proc/self/status"], output=output)

    assert said(child, output).split() == ["NoNewPrivs:", "1"]
    assert Path("/proc/thread-self/status").read_text().count("NoNewPrivs:\t1") == before


def test_child_is_in_a_session_of_its_own_with_no_signal_blocked(output: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        child = spawn(
            ["sh", "-c", "ps -o sid= -p $$; echo $$; exec grep SigBlk /proc/self/status"], output=output
        )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])

    session, process, _, blocked = said(child, output).split()
    assert (session, int(blocked, 16)) == (process, 0)


def test_child_outlives_the_thread_that_asked_for_it(output: int) -> None:
    made: list[Child] = []
    thread = threading.Thread(target=lambda: made.append(spawn(["cat"], fds=[], output=output)))
    thread.start()
    thread.join()
    [child] = made

    assert child.wait(60) == 0  # cat has read all of /dev/null: it was not killed


@needs_setpriv
def test_helper_is_killed_when_this_process_is() -> None:
    program = (
        "import signal\nfrom pyvmm.host.child import spawn\n"
        "child = spawn(['sh', '-c', 'echo $$; exec sleep 600'], output=1)\nsignal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            watched = os.pidfd_open(int(holder.stdout.readline()))
        finally:
            holder.kill()

    ended = select.select([watched], [], [], 60)[0]
    os.close(watched)
    assert ended


def test_end_waits_then_kills(output: int) -> None:
    quick, slow = spawn(["true"]), spawn(["sleep", "600"])

    quick.end(60)
    slow.end(0.05)
    slow.end(0.05)

    assert (quick.status, slow.status) == (0, -signal.SIGKILL)


def test_program_that_is_not_there_is_no_file() -> None:
    with pytest.raises(FileNotFoundError):
        spawn(["no-such-program"])


def test_descriptor_beyond_the_limit_is_told_as_too_many(output: int) -> None:
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    far = fcntl.fcntl(output, fcntl.F_DUPFD, 200)  # for every program that this process starts
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            spawn(["true"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        os.close(far)


def test_start_that_fails_leaves_no_descriptor() -> None:
    spawn(["true"]).end(60)
    before = sorted(os.listdir("/proc/self/fd"))

    with pytest.raises(OSError):
        spawn(["true"], fds=[999])
    with pytest.raises(ValueError):
        spawn(["true", "\0"])
    spawn(["true"]).end(60)

    assert sorted(os.listdir("/proc/self/fd")) == before
