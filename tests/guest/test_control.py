"""The control socket of a guest of this process: what it answers, and that no client can stop the guest."""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.errors import ConfigError
from pyvmm.guest import control, registry
from pyvmm.guest.guest import Guest
from pyvmm.guest.reach import Reached, RefusedError
from tests.support.command import until
from tests.support.firmware_guest import BIN, PARAMETERS, PASSED, WATCHDOG

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

LIMIT = WATCHDOG


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(firmware=str(BIN / "echo.bin"), name="web", memory="64M", timeout=WATCHDOG) as guest:
        guest.console.expect("ready\n", LIMIT)
        yield guest


def connected() -> socket.socket:
    link = registry.connect("web")
    link.settimeout(LIMIT)
    return link


@pytest.fixture
def many_files() -> Iterator[None]:
    """The process has more files open than an fd_set of select(2) has bits."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < 2048:
        pytest.skip("this process may not open 2048 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2048), before[1]))
    files = []
    try:
        while not files or files[-1] < 1024:
            files.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for fd in files:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def rest(link: socket.socket) -> bytes:
    """All that comes until the other end hangs up."""
    data = b""
    while part := link.recv(65536):
        data += part
    return data


def answers_info() -> None:
    """The loop turns."""
    with Reached("web") as reached:
        reached.ask("info")


def answers(guest: Guest) -> None:
    """The loop turns, and the guest goes on."""
    with Reached("web") as reached:
        assert reached.ask("info")["state"] == "running"
    guest.console.send("alive")
    guest.console.expect("alive", LIMIT)


def test_info_tells_of_the_guest(guest: Guest) -> None:
    with Reached("web") as reached:
        answer = reached.ask("info")

    uptime = answer.pop("uptime")
    assert answer == {"name": "web", "pid": os.getpid(), "memory": 64 << 20, "cpus": 1, "state": "running"}
    assert 0 <= uptime < LIMIT
    guest.pause()
    with Reached("web") as reached:
        assert reached.ask("info")["state"] == "paused"


def test_info_reaches_a_process_with_more_than_1024_open_files(guest: Guest, many_files: None) -> None:
    with Reached("web") as reached:
        assert reached.socket.fileno() >= 1024
        assert reached.ask("info")["name"] == "web"


def test_name_that_is_taken_is_refused_before_anything_is_built(guest: Guest) -> None:
    with pytest.raises(ConfigError, match="'web' is that of a running guest"):
        Guest(firmware=str(BIN / "echo.bin"), name="web")


def test_guests_whose_names_nobody_chose_are_reached_too() -> None:
    guests = [Guest(firmware=str(BIN / "echo.bin"), timeout=WATCHDOG) for _ in range(2)]
    try:
        for one in guests:
            one.start()
        assert registry.names() == sorted(one.name for one in guests)
        for one in guests:
            with Reached(one.name) as reached:
                assert reached.ask("info")["name"] == one.name
    finally:
        for one in guests:
            one.close()
    assert registry.names() == []


def test_commands_are_refused_with_the_reason(guest: Guest) -> None:
    with Reached("web") as reached, pytest.raises(RefusedError, match=r"guest 'web': .*boots firmware"):
        reached.ask("exec")


def test_stop_presses_the_power_button_and_stops_a_guest_that_ignores_it(guest: Guest) -> None:
    with Reached("web") as reached:
        assert reached.ask("stop", timeout=0.2) == {"pressed": True}
        ending = reached.answer(LIMIT)

    assert ending is not None
    assert (ending["ending"]["code"], ending["ending"]["detail"]) == (3, "stopped by pyvmm stop")
    assert guest.wait(LIMIT).code == 3


def test_stop_that_is_given_up_stops_nothing(guest: Guest) -> None:
    with Reached("web") as reached:
        reached.ask("stop", timeout=0.3)
    with pytest.raises(TimeoutError):
        guest.wait(0.6)
    answers(guest)


@pytest.mark.parametrize("timeout", [-1, 1e9, "long", None, [], float("nan"), float("inf")])
def test_stop_with_a_time_that_is_none_is_refused(guest: Guest, timeout: object) -> None:
    with Reached("web") as reached, pytest.raises(RefusedError, match="a time from 0 to 3600 seconds"):
        reached.ask("stop", timeout=timeout)
    answers(guest)


def test_console_shows_what_came_lately_follows_and_types(guest: Guest) -> None:
    guest.console.send("before ")
    guest.console.expect("before ", LIMIT)
    with Reached("web") as first, Reached("web") as second:
        for reached in (first, second):
            reached.ask("console")
            reached.socket.settimeout(LIMIT)
        first.socket.send(b"typed ")
        seen = {first: bytes(first.rest), second: bytes(second.rest)}
        for reached, data in seen.items():
            while not data.endswith(b"typed "):
                data += reached.socket.recv(4096)
            assert data == b"ready\nbefore typed "
    guest.console.expect("typed ", LIMIT)
    answers(guest)


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"null\n",
        b"[]\n",
        b'"info"\n',
        b"{}\n",
        b'{"verb": "format"}\n',
        b'{"verb": ["info"]}\n',
        b"\xff\xfe\n",
        b"[" * 4000 + b"\n",
        b"1" * 4000 + b"\n",
        b'{"verb": "info"',  # and no end of line, then the end
    ],
)
def test_nonsense_is_answered_or_dropped(guest: Guest, line: bytes) -> None:
    with connected() as link:
        link.sendall(line)
        if line.endswith(b"\n"):
            assert b"error" in rest(link)
    answers(guest)


def test_line_without_an_end_is_dropped(guest: Guest) -> None:
    with connected() as link, pytest.raises(OSError):
        link.sendall(b"x" * 4_000_000)
    answers(guest)


def test_client_that_says_nothing_is_dropped(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LINE_PATIENCE", 0.2)
    with connected() as link:
        assert rest(link) == b""
    answers(guest)


def test_clients_beyond_the_limit_are_closed_and_the_others_served(guest: Guest) -> None:
    links = [connected() for _ in range(control.CLIENTS_MAX)]
    with connected() as one_more:
        assert rest(one_more) == b""
    links.pop().close()
    links[0].sendall(b'{"verb": "info"}\n')
    assert json.loads(rest(links[0]))["name"] == "web"
    for link in links:
        link.close()
    until(lambda: _can_ask(), LIMIT)
    answers(guest)


def test_client_that_takes_no_output_is_dropped_and_the_console_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 320 << 10  # more than the socket and what waits hold
    monkeypatch.setattr(control, "UNSENT_MAX", 16 << 10)
    program = bytearray((BIN / "flood.bin").read_bytes())
    struct.pack_into("<Q", program, PARAMETERS, size)
    (tmp_path / "flood.bin").write_bytes(program)
    guest = Guest(firmware=str(tmp_path / "flood.bin"), name="web", timeout=WATCHDOG)
    guest.pause()
    guest.start()
    with guest, connected() as link:
        link.sendall(b'{"verb": "console"}\n')
        assert link.recv(64).startswith(b'{"attached": true}\n')
        guest.resume()
        assert guest.wait(LIMIT).code == PASSED
        assert guest.console.data.endswith(b"ok flood\n")
        assert len(rest(link)) < size


def test_client_that_types_much_into_a_guest_that_reads_nothing_waits_itself() -> None:
    with Guest(firmware=str(BIN / "spin.bin"), name="web", timeout=WATCHDOG) as guest:
        with connected() as link:
            link.sendall(b'{"verb": "console"}\n')
            link.setblocking(False)
            sent = 0
            last = time.monotonic()
            while time.monotonic() - last < 0.5:  # until its socket has taken no more for a while
                try:
                    sent += link.send(b"x" * 65536)
                    last = time.monotonic()
                except BlockingIOError:
                    pass
            assert sent < 4 << 20
            assert guest.console.backend.pending < 64 << 10
        with Reached("web") as reached:
            assert reached.ask("info")["state"] == "running"


def test_clients_that_type_and_hang_up_again_and_again_fill_no_memory() -> None:
    with Guest(firmware=str(BIN / "spin.bin"), name="web", timeout=WATCHDOG) as guest:
        for _ in range(40):
            with connected() as link:
                link.sendall(b'{"verb": "console"}\n')
                assert link.recv(100).startswith(b'{"attached"')
                link.sendall(b"x" * 65536)
            with Reached("web") as reached:
                assert reached.ask("info")["state"] == "running"

        assert guest.console.backend.pending < 128 << 10


def test_typed_text_waits_for_that_of_another_client(guest: Guest) -> None:
    guest.pause()
    with connected() as first, connected() as second:
        for link in (first, second):
            link.sendall(b'{"verb": "console"}\n')
            assert link.recv(100).startswith(b'{"attached"')
        first.sendall(b"x" * 16000)
        until(lambda: guest.console.backend.pending > control.TYPED_MAX)
        second.sendall(b"<second>")
        answers_info()
        guest.resume()
        guest.console.expect("<second>", LIMIT)


def test_storm_of_connections_does_not_keep_others_out(guest: Guest) -> None:
    for _ in range(300):
        connected().close()
    answers(guest)


def test_end_of_the_guest_hangs_up_and_gives_the_name_up(guest: Guest) -> None:
    with connected() as link:
        link.sendall(b'{"verb": "console"}\n')
        assert link.recv(1)
        guest.kill()
        rest(link)
    assert registry.names() == []


def test_client_that_takes_too_little_at_the_end_does_not_keep_the_end_from_being_told() -> None:
    echo = str(BIN / "echo.bin")
    with Guest(firmware=echo, name="web", timeout=WATCHDOG, in_process=True) as guest, connected() as link:
        link.sendall(b'{"verb": "console"}\n')
        assert link.recv(100).startswith(b'{"attached"')
        more = bytes(control.UNSENT_MAX + (1 << 20))  # the socket takes a part of that
        guest.machine.at_end(lambda: guest.console.backend.write(more))  # the loop runs no more
        guest.machine.stop()

        assert guest.wait(LIMIT).code == 3
        assert len(rest(link)) < len(more)
    assert registry.names() == []


def _can_ask() -> bool:
    try:
        with Reached("web") as reached:
            return bool(reached.ask("info"))
    except registry.NoAnswerError:
        return False
