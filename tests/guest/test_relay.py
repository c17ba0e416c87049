"""``pyvmm exec`` over a control socket: both processes, and the guest's exec server, run on this machine."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyvmm.exec import frames
from pyvmm.exec.client import ExecClient
from pyvmm.guest import registry, relay
from pyvmm.guest.control import ControlServer, Target
from pyvmm.guest.control_listener import ControlListener
from pyvmm.guest.reach import Reached
from pyvmm.loop import READ, LoopThread
from tests.support.command import LIMIT, OnTerminal, pyvmm, start, until
from tests.support.exec_server import channel, server_program

__all__ = ["channel", "server_program"]

pytestmark = pytest.mark.timeout(120)


class Served:
    """A control socket named ``web`` whose commands the exec server behind *fd* runs."""

    def __init__(self, fd: int) -> None:
        self.thread = LoopThread("relay test")
        self.loop = self.thread.loop
        self.client = ExecClient(lambda data: self._send(fd, data))
        machine = SimpleNamespace(ending=None, paused=False)
        config = SimpleNamespace(memory_size=1, cpus=1)
        target = Target("web", 1, config, lambda: machine, lambda: self.client, lambda: "none")  # type: ignore[arg-type]
        self.server = ControlServer(self.loop, target)
        self.listener = ControlListener(
            self.loop,
            registry.claim("web"),
            lambda connection: self.server.serve(os.dup(connection.fileno())),
        )
        self.loop.call_soon(lambda: self._begin(fd))

    def _begin(self, fd: int) -> None:
        self.loop.add(fd, READ, lambda events: self.client.receive(os.read(fd, 65536)))
        self.client.connect()
        self.listener.listen()

    def _send(self, fd: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                pass

    def close(self) -> None:
        self.thread.close()
        self.listener.close()
        self.server.close()


@pytest.fixture
def served(channel: tuple[int, object, str]) -> Iterator[Served]:
    served = Served(channel[0])
    yield served
    served.close()


def alive(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_status_streams_and_arguments_are_those_of_a_local_command(served: Served) -> None:
    done = pyvmm(
        "exec", "web", "--", "sh", "-c", "cat; echo err >&2; echo $1; exit 7", "-", "a b", stdin=b"in\n"
    )

    assert (done.returncode, done.stdout, done.stderr) == (7, b"in\na b\n", b"err\n")
    assert pyvmm("exec", "web", "no-such-program").returncode == 127
    assert pyvmm("exec", "web", "sh", "-c", "kill -TERM $$").returncode == 128 + 15


def test_bytes_pass_unchanged_in_both_directions(served: Served) -> None:
    data = os.urandom(700_000)

    done = pyvmm("exec", "web", "cat", stdin=data)

    assert (done.returncode, done.stdout == data, done.stderr) == (0, True, b"")


def test_commands_of_several_processes_run_at_once(served: Served, tmp_path: Path) -> None:
    script = f"touch {tmp_path}/$0; until [ $(ls {tmp_path} | wc -l) = 4 ]; do sleep 0.02; done; echo $0"
    processes = [start("exec", "web", "sh", "-c", script, str(n)) for n in range(4)]

    outputs = [process.communicate(timeout=LIMIT) for process in processes]

    assert outputs == [(b"%d\n" % n, b"") for n in range(4)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_goes_to_the_command(served: Served, number: signal.Signals) -> None:
    script = f"trap 'echo caught; exit 9' {number.name[3:]}; echo ready; while :; do sleep 0.02; done"
    process = start("exec", "web", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)

    assert process.communicate(timeout=LIMIT)[0] == b"caught\n"
    assert process.returncode == 9


@pytest.mark.parametrize("way", ["killed", "twice"])
def test_command_ends_when_its_user_goes(served: Served, way: str) -> None:
    process = start("exec", "web", "sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.02; done")
    assert process.stdout is not None
    pid = process.stdout.readline().decode().strip()
    assert alive(pid)
    if way == "killed":
        process.kill()
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.communicate()

    assert process.returncode in (-9, 128 + 15)
    until(lambda: not alive(pid))


def test_output_into_a_pipe_that_is_closed_ends_the_command(served: Served) -> None:
    process = start("exec", "web", "sh", "-c", "echo $$; exec cat /dev/zero")
    assert process.stdout is not None
    assert process.stderr is not None
    pid = process.stdout.readline().decode().strip()
    process.stdout.close()

    assert process.wait(LIMIT) == 128 + 13
    process.stderr.close()
    until(lambda: not alive(pid))


def test_reader_that_reads_nothing_holds_up_no_other_command(served: Served) -> None:
    process = start("exec", "web", "cat", "/dev/zero")
    assert process.stdout is not None
    assert process.stdout.read(1) == b"\0"

    assert pyvmm("exec", "web", "echo", "fast").stdout == b"fast\n"
    process.kill()
    process.communicate()


def test_terminal_has_a_size_and_keys_and_is_put_back(served: Served) -> None:
    terminal = OnTerminal("exec", "web", "sh", "-c", "tty; read line; echo got $line; cat; exit 5")
    try:
        terminal.expect(b"/dev/pts/")
        assert terminal.raw
        terminal.press(b"words\r")
        terminal.expect(b"got words")
        terminal.press(b"again\r")
        terminal.expect(b"again")  # the echo
        terminal.expect(b"again")  # cat runs: dash loses a signal that comes as it starts a child
        terminal.press(b"\x01h")
        terminal.expect(b"end this command; the guest goes on")
        terminal.press(b"\x03")
        assert terminal.wait() == 128 + 2
        assert terminal.restored
    finally:
        terminal.close()


def test_end_of_the_guest_ends_the_command_with_the_code_of_a_crash(served: Served) -> None:
    process = start("exec", "web", "sh", "-c", "echo ready; sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    served.close()

    assert process.communicate(timeout=LIMIT) == (b"", b"pyvmm: guest 'web' ended before the command had\n")
    assert process.returncode == 7


def test_exec_server_that_begins_anew_ends_the_command(served: Served) -> None:
    process = start("exec", "web", "sh", "-c", "echo ready; sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    served.loop.call_soon(lambda: served.client.disconnect("the link is gone"))

    process.communicate(timeout=LIMIT)
    assert process.returncode == 7


# A process that does not keep to the protocol


def greeted() -> Reached:
    reached = Reached("web")
    reached.ask("exec")
    reached.socket.setblocking(True)
    reached.socket.settimeout(LIMIT)
    reached.socket.sendall(frames.encode(frames.HOST_HELLO, 0, struct.pack("<HHI", frames.VERSION, 0, 1)))
    assert reached.socket.recv(4096)
    return reached


def request(window: int = 65536) -> bytes:
    return struct.pack("<HHHI", 0, 0, 0, window) + b"acat\0"


def hung_up(link: socket.socket) -> bool:
    try:
        while link.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"no frame at all, but much of it" * 10,
        frames.encode(frames.HOST_PART, 1, bytes(16384)) * 5,
        frames.encode(frames.HOST_RUN, 1, request()) + frames.encode(frames.HOST_STDIN, 1, bytes(16384)) * 64,
    ],
)
def test_process_that_breaks_the_protocol_is_disconnected(served: Served, sent: bytes) -> None:
    with greeted() as reached:
        try:
            reached.socket.sendall(sent)
        except OSError:
            pass  # disconnected already
        if b"acat" not in sent:
            assert hung_up(reached.socket)
    assert pyvmm("exec", "web", "echo", "fine").stdout == b"fine\n"


def test_process_that_says_nothing_of_a_greeting_is_disconnected(served: Served) -> None:
    with Reached("web") as reached:
        reached.ask("exec")
        reached.socket.setblocking(True)
        reached.socket.settimeout(LIMIT)
        reached.socket.sendall(frames.encode(frames.HOST_RUN, 1, request()))
        assert hung_up(reached.socket)
    assert pyvmm("exec", "web", "echo", "fine").stdout == b"fine\n"


@pytest.mark.parametrize("body", [b"", b"short", request()[:10], bytes(60000)])
def test_request_that_is_none_is_refused(served: Served, body: bytes) -> None:
    with greeted() as reached:
        for at in range(0, len(body) or 1, 16384):
            last = at + 16384 >= len(body)
            kind = frames.HOST_RUN if last else frames.HOST_PART
            reached.socket.sendall(frames.encode(kind, 1, body[at : at + 16384]))
        decoder = frames.Decoder()
        found: list[frames.Frame] = []
        while not any(frame.type == frames.GUEST_EXIT for frame in found):
            data = reached.socket.recv(65536)
            assert data
            found += decoder.feed(data)
        [end] = [frame for frame in found if frame.type == frames.GUEST_EXIT]
        assert struct.unpack_from("<I", end.payload)[0] == 125
    assert pyvmm("exec", "web", "echo", "fine").stdout == b"fine\n"


def test_window_that_is_too_large_is_made_smaller(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "OUTPUT_MAX", 100_000)
    with greeted() as reached:
        body = struct.pack("<HHHI", 0, 0, 0, 0xFFFFFFFF) + b"ahead\0a-c\0a10000000\0a/dev/zero\0"
        reached.socket.sendall(frames.encode(frames.HOST_RUN, 1, body))
        got = 0
        reached.socket.settimeout(1)
        begun = time.monotonic()
        try:
            while time.monotonic() - begun < LIMIT:
                got += len(reached.socket.recv(65536))
        except TimeoutError:
            pass
        assert 90_000 < got < 150_000
