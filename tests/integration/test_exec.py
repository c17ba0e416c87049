"""The exec protocol with a real guest: many commands, files, users, over a virtio console's port."""

from __future__ import annotations

import os
import stat
import termios
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from pyvmm.config import Config
from pyvmm.exec.request import EXIT_REFUSED, Request, failure
from pyvmm.exec.tree import Packer, Unpacker, archive_of
from pyvmm.images.default import default_guest
from tests.support.command import OnTerminal
from tests.support.exec_guest import ExecGuest
from tests.support.host_layouts import put_stock_modules
from tests.support.linux import QUIET
from tests.support.native import volume

LIMIT = 180
pytestmark = [pytest.mark.hw, pytest.mark.timeout(LIMIT + 60)]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExecGuest]:
    """Debian's stock kernel as a file, with modules compressed by zstd: what other distributions have."""
    modules = tmp_path_factory.mktemp("modules")
    image = put_stock_modules(
        modules, ["virtio_mmio", "virtio_console", "virtio_net"]
    )  # fetched before the clock runs
    config = Config(
        kernel=image,
        modules=str(modules),
        cmdline=QUIET,
        console="none",
        memory=256 << 20,
        timeout=2 * LIMIT,
    )
    with ExecGuest(config) as guest:
        yield guest


def described(top: Path) -> dict[str, tuple[str, int, object]]:
    found: dict[str, tuple[str, int, object]] = {}
    for path in [
        str(top),
        *(os.path.join(at, name) for at, *names in os.walk(top) for name in chain(*names)),
    ]:
        status = os.lstat(path)
        content: object = None
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            content = Path(path).read_bytes()
        found[os.path.relpath(path, top)] = (oct(status.st_mode), int(status.st_mtime), content)
    return found


def test_guest_of_a_kernel_and_a_folder_of_its_modules_has_our_user_space_and_its_devices(
    guest: ExecGuest,
) -> None:
    status, output, error = guest.run(Request.shell("cut -d' ' -f1 /proc/modules; ls /lib/modules; uname -r"))
    *modules, listed, release = output.decode().split()
    assert (status, error, listed) == (0, b"", release)
    assert {"virtio_mmio", "virtio_console", "virtio_net", "net_failover", "failover"} <= set(modules)


def test_commands_at_once_keep_their_streams_apart(guest: ExecGuest) -> None:
    data = [os.urandom(100_000 + n) for n in range(8)]
    started = [guest.start(Request(["cat"]), piece) for piece in data]
    assert [guest.finish(command) for command in started] == [(0, piece, b"") for piece in data]


def test_small_guest_runs_many_commands_and_refuses_one_too_many_in_a_sentence(guest: ExecGuest) -> None:
    sleeping = [guest.start(Request(["sleep", "1000"])) for _ in range(254)]
    guest.finish(sleeping[-1])  # they are started in order, and no other ends
    refused = [command for command in sleeping if command.ended.is_set()]
    assert len(refused) < 60
    for command in refused:
        status, _, error = guest.finish(command)
        assert status == EXIT_REFUSED
        assert b"MiB runs at most" in error
    for command in sleeping:
        guest.machine.loop.call_soon(lambda run=command.run: run.signal(9))  # type: ignore[misc]
    assert {guest.finish(command)[0] for command in sleeping if command not in refused} == {137}
    assert guest.run(Request(["echo", "after"])) == (0, b"after\n", b"")


def test_tree_goes_in_and_comes_back_the_same(guest: ExecGuest, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/large").write_bytes(os.urandom(volume(4) << 20))
    (tree / "a/empty").write_bytes(b"")
    (tree / "a/link").symlink_to("b/large")
    (tree / "script").write_bytes(b"#!/bin/sh\necho ran\n")
    (tree / "script").chmod(0o751)
    os.utime(tree / "a", (1_500_000_000,) * 2)
    assert guest.run(Request.unpack("/opt/new/tree"), Packer(tree).read) == (0, b"", b"")
    assert guest.run(Request(["/opt/new/tree/script"])) == (0, b"ran\n", b"")
    unpacker = Unpacker(tmp_path / "back")
    status, _, error = guest.run(Request.pack("/opt/new/tree"), sink=unpacker.feed)
    unpacker.finish()
    assert (status, error, unpacker.left_out) == (0, b"", [])
    assert described(tmp_path / "back") == described(tree)


def test_path_that_is_not_there_or_of_another_kind_is_the_guests_error(guest: ExecGuest) -> None:
    status, _, error = guest.run(Request.pack("/no/such/file"))
    assert isinstance(failure(status, error), FileNotFoundError)
    status, _, error = guest.run(Request.unpack("/etc"), archive_of(b"x"))
    assert isinstance(failure(status, error), IsADirectoryError)


def test_command_runs_as_a_user_of_the_guest(guest: ExecGuest) -> None:
    for path, text in (
        ("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"),
        ("/etc/group", b"root:x:0:\nann:x:1000:\nteam:x:1500:ann\n"),
    ):
        assert guest.run(Request.unpack(path), archive_of(text)) == (0, b"", b"")
    asked = Request(["/bin/sh", "-c", "id -un; id -u; id -G; echo $HOME; echo x >/root/x"], user="ann")
    status, output, error = guest.run(asked)
    assert (status, output) == (1, b"ann\n1000\n1000 1500\n/home/ann\n")
    assert b"ermission denied" in error


def test_server_answers_while_every_cpu_is_busy(guest: ExecGuest) -> None:
    busy = [guest.start(Request.shell("while :; do :; done")) for _ in range(4)]
    answered: list[int] = []
    guest.machine.loop.call_soon(lambda: guest.client.ping(lambda: answered.append(1)))
    assert guest.run(Request(["true"]))[0] == 0
    for command in busy:
        guest.machine.loop.call_soon(lambda run=command.run: run.signal(9))  # type: ignore[misc]
        guest.finish(command)
    assert answered == [1]


@pytest.mark.parametrize("console", ["stdio", "none"])
def test_size_of_the_terminal_follows_whatever_the_guests_console_is(console: str) -> None:
    default_guest()  # fetched before the clock runs
    waits = "trap 'stty size; exit' WINCH; echo ready$((4 + 5)); while :; do sleep 0.1; done"
    terminal = OnTerminal("run", "--console", console, "--timeout", str(LIMIT), "--exec", waits)
    try:
        terminal.expect(b"ready9")
        termios.tcsetwinsize(terminal.master, (31, 97))
        terminal.expect(b"31 97")
        assert terminal.wait() == 0
    finally:
        terminal.close()
