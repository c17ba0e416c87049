"""Names of running guests: real sockets in a directory of the test's own."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.errors import ConfigError
from pyvmm.guest import registry
from pyvmm.guest.registry import NameTakenError, NoSuchGuestError, RegistryError, claim
from tests.support.command import until

LIMIT = 30


def left_by_a_process_that_was_killed(name: str | None) -> None:
    """A socket nobody listens on."""
    code = (
        "import os, sys; from pyvmm.guest.registry import claim\n"
        f"claim({name!r}); print('claimed', flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=LIMIT, check=False)
    assert done.stdout == b"claimed\n", done


def test_a_name_belongs_to_who_claims_it_until_that_one_closes(runtime: Path) -> None:
    first = claim("web")

    with pytest.raises(NameTakenError, match=rf"'web' .* process {os.getpid()}.*pyvmm stop web"):
        claim("web")
    assert registry.names() == ["web"]
    first.close()
    first.close()
    assert registry.names() == []
    claim("web").close()
    assert sorted(path.name for path in runtime.iterdir()) == ["lock"]


def test_guests_without_a_chosen_name_get_names_of_their_own() -> None:
    claims = [claim(None) for _ in range(3)]

    assert len({one.name for one in claims}) == 3
    assert registry.names() == sorted(one.name for one in claims)
    for one in claims:
        one.close()


def test_what_a_killed_process_left_is_removed_by_who_finds_it(runtime: Path) -> None:
    left_by_a_process_that_was_killed("dead")
    assert (runtime / "dead.sock").exists()
    with pytest.raises(NoSuchGuestError, match="no running guest 'dead' of this user; there are: none"):
        registry.connect("dead")
    assert not (runtime / "dead.sock").exists()

    left_by_a_process_that_was_killed("dead")
    assert registry.names() == []
    assert not (runtime / "dead.sock").exists()

    left_by_a_process_that_was_killed("dead")
    claim("dead").close()


def test_what_a_killed_process_without_a_chosen_name_left_is_removed_by_the_next(runtime: Path) -> None:
    left_by_a_process_that_was_killed(None)
    (left,) = runtime.glob("guest-*.sock")
    alive = claim("guest-4194305")  # no process can have this number

    one = claim(None)

    assert not left.exists()
    assert registry.names() == sorted([alive.name, one.name])
    one.close()
    alive.close()
    assert sorted(path.name for path in runtime.iterdir()) == ["lock"]


def test_of_many_starters_with_one_name_one_wins_each_time(runtime: Path) -> None:
    claim("wanted").close()
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as left:  # what each of them finds, and may remove
            left.bind(str(runtime / "wanted.sock"))
        won: list[registry.Claim] = []
        lost: list[NameTakenError] = []
        gate = threading.Barrier(8)

        def start(won=won, lost=lost, gate=gate) -> None:
            gate.wait(LIMIT)
            try:
                won.append(claim("wanted"))
            except NameTakenError as error:
                lost.append(error)

        starters = [threading.Thread(target=start) for _ in range(8)]
        for starter in starters:
            starter.start()
        for starter in starters:
            starter.join(LIMIT)

        assert (len(won), len(lost)) == (1, 7)
        link = registry.connect("wanted")
        won[0].socket.accept()[0].close()
        link.close()
        won[0].close()


@pytest.mark.parametrize("name", ["a/b", "..", "lock", "Grüße", "two words", "-x", "%41", "a\nb", "\udcff"])
def test_any_name_is_one_file_in_the_directory(runtime: Path, name: str) -> None:
    with_name = claim(name)

    assert registry.names() == [name]
    registry.connect(name).close()
    assert len(list(runtime.iterdir())) == 2
    with_name.close()


def test_a_name_too_long_for_a_socket_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than 64 bytes"):
        claim("x" * 65)
    claim("x" * 64).close()


def test_directory_with_a_long_path_is_as_good(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    one = claim("far")
    registry.connect("far").close()
    one.close()


def test_without_a_runtime_directory_it_is_one_of_the_users_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    claim("x").close()

    folder = tmp_path / f"pyvmm-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["open to others", "a link", "a file"])
def test_directory_that_is_not_the_users_alone_is_refused(runtime: Path, tmp_path: Path, kind: str) -> None:
    if kind == "open to others":
        runtime.mkdir()
        runtime.chmod(0o770)
    elif kind == "a link":
        (tmp_path / "mine").mkdir(mode=0o700)
        runtime.symlink_to(tmp_path / "mine")
    else:
        runtime.write_text("")

    with pytest.raises(RegistryError, match="not a directory of this user alone"):
        claim("x")
    with pytest.raises(RegistryError, match=str(runtime)):
        registry.names()


def test_lock_that_a_process_keeps_is_not_waited_for_for_ever(runtime: Path) -> None:
    claim("x").close()
    code = (
        "import ctypes, os, sys; fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "ctypes.CDLL(None).flock(fd, 2); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(runtime / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RegistryError, match=r"has had the names of guests locked for 0\.1 s"):
            claim("x", patience=0.1)
    finally:
        holder.communicate(timeout=LIMIT)
    claim("x").close()


def test_who_does_not_accept_connections_is_there_all_the_same() -> None:
    stuck = claim("stuck")
    queued = [registry.connect("stuck") for _ in range(registry.BACKLOG + 1)]
    try:
        with pytest.raises(registry.NoAnswerError, match="'stuck' accepts no connections"):
            registry.connect("stuck")
        assert registry.names() == ["stuck"]
        with pytest.raises(NameTakenError, match="that does not answer"):
            claim("stuck")
    finally:
        for link in queued:
            link.close()
        stuck.close()


def test_removal_leaves_a_successors_socket_alone(runtime: Path) -> None:
    first = claim("x")
    (runtime / "x.sock").unlink()
    second = claim("x")
    first.close()

    registry.connect("x").close()
    second.close()


def test_name_is_answered_until_its_file_is_removed(runtime: Path) -> None:
    one = claim("x")
    lock = str(runtime / "lock")
    held = os.open(lock, os.O_RDWR)

    def opened() -> int:
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return sum(os.path.exists(link) and os.readlink(link) == lock for link in links)

    assert ctypes.CDLL(None).flock(held, 2) == 0
    closing = threading.Thread(target=one.close)
    closing.start()
    until(lambda: opened() == 2)  # it waits for the lock

    registry.connect("x").close()  # and nobody finds a socket that is left
    os.close(held)
    closing.join(LIMIT)

    assert not (runtime / "x.sock").exists()
    with pytest.raises(NoSuchGuestError):
        registry.connect("x")


@pytest.mark.parametrize("use", [lambda: claim("x"), lambda: claim(None), lambda: registry.connect("dead")])
def test_lock_that_cannot_be_opened_is_one_sentence(runtime: Path, use: Callable[[], object]) -> None:
    left_by_a_process_that_was_killed("dead")
    (runtime / "lock").unlink()
    (runtime / "lock").symlink_to("elsewhere")

    with pytest.raises(RegistryError, match=r"cannot be used: .*lock.*XDG_RUNTIME_DIR"):
        use()


@pytest.mark.parametrize("use", ["claim('x')", "claim(None)", "connect('live')", "names()"])
@pytest.mark.parametrize("free", [0, 1, 2])
def test_without_descriptors_left_it_is_one_sentence(use: str, free: int) -> None:
    live = claim("live")
    code = (
        "import os, resource; from pyvmm.guest import registry\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "taken = []\n"
        "while len(taken) < 64:\n"
        "    try: taken.append(os.open('/', os.O_RDONLY))\n"
        "    except OSError: break\n"
        f"for fd in taken[:{free}]: os.close(fd)\n"
        f"try: registry.{use}\n"
        "except registry.RegistryError as error: print(error)\n"
        "else: print('enough')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=LIMIT, check=False)
    live.close()

    assert done.stderr == b""
    enough = {"connect('live')": 2, "names()": 2}.get(use, 3)
    assert (b"Too many open files" in done.stdout) == (free < enough), done


def test_name_that_is_no_text_is_refused() -> None:
    for use in (claim, registry.connect):
        with pytest.raises(ConfigError, match="cannot be the name of a file"):
            use("\ud800")
