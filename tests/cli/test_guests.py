"""``pyvmm ps``, ``console``, ``stop`` and ``exec`` with guests that other processes run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pyvmm.guest import registry
from tests.support.command import (
    LIMIT,
    PASSED,
    OnTerminal,
    complains,
    pyvmm,
    read_until,
    start,
    starter,
    until,
)
from tests.support.firmware_guest import BIN
from tests.support.runtime import runtime

__all__ = ["runtime"]

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(180), pytest.mark.usefixtures("runtime")]

Boot = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def boot(runtime: Path) -> Iterator[Boot]:
    """Starts ``pyvmm run`` of a firmware program."""
    with starter("run", "--memory", "64M", "--timeout", str(LIMIT)) as begin:
        yield lambda program, *options: begin("--firmware", str(BIN / f"{program}.bin"), *options)


def listed() -> list[dict[str, object]]:
    done = pyvmm("ps", "--json")
    assert (done.returncode, done.stderr) == (0, b""), done
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def until_listed(count: int) -> list[dict[str, object]]:
    until(lambda: len(listed()) == count)
    return listed()


def test_ps_lists_guests_by_name_and_those_without_a_chosen_one(boot: Boot) -> None:
    processes = [boot("spin", "--console", "none", *name) for name in (("--name", "web"), ())]

    by_name = {guest["name"]: guest for guest in until_listed(2)}

    assert by_name.keys() == {"web", f"guest-{processes[1].pid}"}
    web = by_name["web"]
    assert {key: web[key] for key in ("pid", "memory", "cpus", "state")} == {
        "pid": processes[0].pid,
        "memory": 64 << 20,
        "cpus": 1,
        "state": "running",
    }
    table = pyvmm("ps").stdout.decode().splitlines()
    assert table[0].split() == ["NAME", "PID", "MEMORY", "CPUS", "STATE", "UPTIME"]
    assert table[-1].split()[:5] == ["web", str(processes[0].pid), "64M", "1", "running"]


def test_twenty_guests_at_once_are_told_apart(boot: Boot) -> None:
    processes = {f"guest {n}": boot("spin", "--console", "none", "--name", f"guest {n}") for n in range(20)}

    found = until_listed(20)
    assert {guest["name"]: guest["pid"] for guest in found} == {
        name: process.pid for name, process in processes.items()
    }
    assert pyvmm("stop", "guest 7", "--timeout", "0").returncode == 3
    assert processes["guest 7"].wait(LIMIT) == 3
    assert len(listed()) == 19


def test_name_of_a_running_guest_is_refused_to_another(boot: Boot) -> None:
    boot("spin", "--console", "none", "--name", "web")
    until_listed(1)

    done = pyvmm("run", "--firmware", str(BIN / "exit.bin"), "--console", "none", "--name", "web")

    complains(done, 65, "'web' is that of a running guest", "pyvmm stop web")


def test_name_of_a_killed_guest_is_free_again(boot: Boot) -> None:
    process = boot("spin", "--console", "none", "--name", "web")
    until_listed(1)
    process.kill()
    process.wait()

    done = pyvmm("run", "--firmware", str(BIN / "exit.bin"), "--console", "none", "--name", "web")

    assert (done.returncode, done.stderr) == (PASSED, b"")
    assert listed() == []


def test_of_two_starters_with_one_name_one_runs(boot: Boot) -> None:
    processes = [boot("spin", "--console", "none", "--name", "web") for _ in range(6)]

    until(lambda: sum(process.poll() is None for process in processes) == 1)

    assert sorted(process.returncode or 0 for process in processes) == [0, *[65] * 5]
    assert len(until_listed(1)) == 1


def test_stop_of_a_guest_that_reacts_to_the_power_button_or_not(boot: Boot) -> None:
    process = boot("spin", "--console", "none", "--name", "web")
    until_listed(1)

    done = pyvmm("stop", "web", "--timeout", "100ms")

    complains(done, 3, "did not react to its power button")
    assert process.wait(LIMIT) == 3
    assert b"stopped by pyvmm stop" in process.communicate()[1]


def test_stop_and_start_again_find_the_name_free(boot: Boot) -> None:
    for _ in range(3):
        boot("spin", "--console", "none", "--name", "web")
        until_listed(1)
        assert pyvmm("stop", "web", "--timeout", "0").returncode == 3


@pytest.mark.parametrize("verb", ["console", "stop", "exec"])
def test_guest_that_is_not_there_is_one_sentence(verb: str) -> None:
    command = ["true"] if verb == "exec" else []

    complains(pyvmm(verb, "nobody", *command), 65, "no running guest 'nobody'", "there are: none")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ps", "x"], "one word too many"),
        (["console"], "one guest's name is needed"),
        (["stop", "a", "b"], "one guest's name is needed"),
        (["stop", "a", "--timeout", "soon"], "timeout"),
        (["exec"], "a guest's name comes first"),
        (["exec", "--help me"], "is not an option"),
        (["exec", "web"], "a command comes after"),
        (["exec", "web", "--"], "a command comes after"),
    ],
)
def test_wrong_words_are_one_sentence(words: list[str], sentence: str) -> None:
    complains(pyvmm(*words), 65, sentence)


@pytest.mark.parametrize("verb", ["ps", "console", "stop", "exec"])
def test_help_tells_what_the_verb_does(verb: str) -> None:
    done = pyvmm(verb, "--help")

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(f"usage: pyvmm {verb}".encode())


def test_console_on_a_terminal_shows_follows_types_and_leaves(boot: Boot) -> None:
    process = boot("echo", "--console", "none", "--name", "web")
    until_listed(1)
    first, second = OnTerminal("console", "web"), OnTerminal("console", "web")
    try:
        for terminal in (first, second):
            terminal.expect(b"ready")
            assert terminal.raw
        first.press(b"typed")
        for terminal in (first, second):
            terminal.expect(b"typed")
        second.press(b"\x01h")
        second.expect(b"leave this console; the guest goes on")
        second.press(b"\x01x")
        assert second.wait() == 0
        assert second.restored
        assert process.poll() is None
        first.press(b"\x04")
        first.expect(b"ok echo")
        assert first.wait() == 0
        assert first.restored
    finally:
        first.close()
        second.close()
    assert process.wait(LIMIT) == PASSED


def test_console_of_pipes_follows_until_the_guest_ends(boot: Boot) -> None:
    process = boot("echo", "--console", "none", "--name", "web")
    until_listed(1)

    done = pyvmm("console", "web", stdin=b"piped\x04")

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"ready\npipedok echo\n"
    assert process.wait(LIMIT) == PASSED


def test_console_whose_reader_has_gone_leaves(boot: Boot) -> None:
    boot("echo", "--console", "none", "--name", "web")
    until_listed(1)
    attached = start("console", "web", stdin=subprocess.PIPE)
    assert attached.stdout is not None
    assert attached.stdin is not None
    read_until(attached.stdout, b"ready")
    attached.stdout.close()
    attached.stdin.write(b"x")
    attached.stdin.flush()

    assert attached.wait(LIMIT) == 0
    attached.stdin.close()
    assert attached.stderr is not None
    assert attached.stderr.read() == b""
    attached.stderr.close()
    assert len(listed()) == 1


def test_console_that_has_a_place_already_is_refused(boot: Boot, tmp_path: Path) -> None:
    boot("spin", "--console", f"file:{tmp_path / 'out'}", "--name", "web")
    until_listed(1)

    complains(pyvmm("console", "web"), 64, "its console is file")


def test_exec_in_a_guest_that_runs_no_commands_is_refused(boot: Boot) -> None:
    boot("spin", "--console", "none", "--name", "web")
    until_listed(1)

    complains(pyvmm("exec", "web", "true"), 64, "runs no commands")


def test_process_that_is_stopped_does_not_answer_and_is_listed(boot: Boot) -> None:
    process = boot("spin", "--console", "none", "--name", "web")
    until_listed(1)
    process.send_signal(signal.SIGSTOP)

    assert listed() == [{"name": "web", "state": "no answer"}]
    assert pyvmm("ps").stdout.decode().splitlines()[1].split() == ["web", "-", "-", "-", "no", "answer", "-"]
    process.send_signal(signal.SIGCONT)
    until(lambda: listed()[0]["state"] == "running")


def test_guest_of_a_user_without_a_place_for_sockets_runs_all_the_same(runtime: Path) -> None:
    runtime.write_text("in the way")

    named = pyvmm("run", "--firmware", str(BIN / "exit.bin"), "--console", "none", "--name", "web")
    unnamed = pyvmm("run", "--firmware", str(BIN / "spin.bin"), "--console", "none", "--timeout", "0.6s")

    complains(named, PASSED, "no other process can reach this guest")
    assert unnamed.returncode == 3
    assert unnamed.stderr.count(b"\n") == 1


def test_guest_whose_names_cannot_be_locked_runs_all_the_same(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    (runtime / "lock").symlink_to("elsewhere")
    words = ["run", "--console", "none", "--timeout", "0.6s", "--firmware", str(BIN / "spin.bin")]

    named, unnamed = pyvmm(*words, "--name", "web"), pyvmm(*words)

    assert (named.returncode, unnamed.returncode) == (3, 3)
    assert b"no other process can reach this guest" in named.stderr
    assert b"did not end within 0.6 seconds" in unnamed.stderr


@pytest.mark.parametrize(
    "answer",
    [
        b"no JSON",
        b"[" * 10_000,
        b"[]",
        b"3",
        b"{}",
        b'{"name": "web", "pid": 1, "memory": "64M", "cpus": 1, "state": "running", "uptime": 1}',
        b'{"name": "web", "pid": 1, "memory": 1, "cpus": 1, "state": "running", "uptime": Infinity}',
        b'{"name": ["web"], "pid": 1, "memory": 1, "cpus": 1, "state": "running", "uptime": 1}',
        b'{"name": "web", "pid": 1, "memory": 1, "cpus": 1, "state": "\\u001b[2J", "uptime": 1}',
    ],
)
def test_socket_that_answers_nonsense_is_listed_and_hides_no_other(boot: Boot, answer: bytes) -> None:
    boot("spin", "--console", "none", "--name", "other")
    until_listed(1)
    nonsense = registry.claim("web")

    def serve() -> None:
        while not over.is_set():
            with suppress(OSError), nonsense.socket.accept()[0] as link:
                if link.recv(4096):
                    link.sendall(answer + b"\n" + b'{"ending": [3]}\n')

    nonsense.socket.setblocking(True)
    over = threading.Event()
    server = threading.Thread(target=serve)
    server.start()
    try:
        done = pyvmm("ps")
        stopped = pyvmm("stop", "web")
    finally:
        over.set()
        nonsense.socket.shutdown(socket.SHUT_RDWR)
        server.join(LIMIT)
        nonsense.close()

    assert (done.returncode, done.stderr) == (0, b"")
    assert {line.split()[0] for line in done.stdout.splitlines()} == {b"NAME", b"other", b"web"}
    assert b"\x1b" not in done.stdout
    assert b"Traceback" not in stopped.stderr
    assert stopped.returncode in (0, 64)


def test_name_that_is_no_text_is_one_sentence() -> None:
    complains(pyvmm("stop", os.fsdecode(b"\xff")), 65, "no running guest")


def test_control_socket_goes_with_its_guest(boot: Boot, runtime: Path) -> None:
    process = boot("spin", "--console", "none")
    until_listed(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT) == 3

    assert [path for path in os.listdir(runtime) if path != "lock"] == []
