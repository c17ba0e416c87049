"""``pyvmm device`` in its sandbox: what its process can and cannot, seen from inside and from outside.

The device of tests/support/reaching_device.py does what these tests, its driver, say.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.host.sandbox import KILL, lacking_here
from pyvmm.testing import FakeDriver
from pyvmm.virtio import ids
from pyvmm.virtio.vhost.back_end_connection import BackEndConnection
from pyvmm.virtio.vhost.channel import connect
from pyvmm.virtio.vhost.frontend import VhostUser
from tests.support.command import until
from tests.support.device_process import served
from tests.support.other_user import UID, needs_root
from tests.support.reaching_device import IDENTIFIER, ROOM
from tests.support.sandbox_acts import ACTS, DONE

pytestmark = pytest.mark.timeout(120)

DEVICE = "tests.support.reaching_device:Reaching"
USERS = pytest.mark.parametrize(
    "user",
    [
        pytest.param(None, id="as who runs the tests"),
        pytest.param(UID + 1, id="as an ordinary user", marks=needs_root),
    ],
)


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory that the device's user can use, with a file in it; pytest's are root's alone."""
    user = request.node.callspec.params.get("user") if hasattr(request.node, "callspec") else None
    with tempfile.TemporaryDirectory(prefix="pyvmm-test-") as name:
        path = Path(name).resolve()
        (path / "in").mkdir()
        (path / "in" / "file").write_text("text")
        (path / "out").write_text("secret")
        if user is not None:
            for each in (path, path / "in", path / "in" / "file", path / "out"):
                os.chown(each, user, user)
        yield path


@contextmanager
def driver_of(path: Path, identifier: int = IDENTIFIER, user: int | None = None) -> Iterator[FakeDriver]:
    front_end = VhostUser(
        BackEndConnection(lambda: connect(str(path), user), "it"), identifier, "test", queues=1, config_size=0
    )
    with FakeDriver(front_end) as driver:
        yield driver


def ask(driver: FakeDriver, text: str) -> str:
    answer: bytes = driver.request(0, [text.encode()], [ROOM])
    return answer.decode()


@USERS
def test_no_forbidden_act_succeeds_and_from_outside_nothing_is_left(folder: Path, user: int | None) -> None:
    path = folder / "s"
    with (
        open(folder / "out") as canary,
        served(DEVICE, path=path, user=user) as process,
        driver_of(path, user=user) as driver,
    ):
        assert canary.readable()
        outcomes = json.loads(ask(driver, "acts"))
        proc = Path(f"/proc/{process.pid}")
        status = [
            dict(line.split(":\t", 1) for line in file.read_text().splitlines() if ":\t" in line)
            for file in proc.glob("task/*/status")
        ]
        files, root, networks = [], None, set()
        if os.geteuid() == 0:
            files = [os.readlink(file) for file in (proc / "fd").iterdir()]
            root = os.listdir(proc / "root")
            networks = {os.readlink(proc / "ns/net"), os.readlink("/proc/self/ns/net")}

    assert outcomes == {name: act.refused for name, act in ACTS.items()}
    for each in status:
        assert (each["Seccomp"], each["NoNewPrivs"]) == ("2", "1")
        assert {int(each[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
        assert "0" not in each["Uid"].split()
    named = {file for file in files if file.startswith("/") and "memfd:" not in file}
    assert named <= {"/dev/null"} | {os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1)}
    # In a chroot, as in the lab, an ordinary user gets no namespace.
    if root is not None and not lacking_here() and (user is None or len(networks) == 2):
        assert root == []
        assert len(networks) == 2


def test_without_the_sandbox_the_same_acts_succeed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with served(DEVICE, "--sandbox=off", path=path) as process, driver_of(path) as driver:
        outcomes = json.loads(ask(driver, "acts"))
        status = Path(f"/proc/{process.pid}/status").read_text()

    assert sum(outcomes[name] != act.refused for name, act in ACTS.items()) > 70
    assert {name for name, outcome in outcomes.items() if outcome == DONE} >= {"open a file", "fork"}
    assert "NoNewPrivs:\t0" in status


@USERS
def test_declared_path_is_used_by_its_name_and_nothing_else_is(folder: Path, user: int | None) -> None:
    path, inside, outside = folder / "s", folder / "in", folder / "out"
    with (
        served(f"{DEVICE},reach={inside}", path=path, user=user) as process,
        driver_of(path, user=user) as driver,
    ):
        read = ask(driver, f"read {inside}/file")
        listed = ask(driver, f"write {inside}/made")
        refused = [
            ask(driver, text)
            for text in (
                f"read {outside}",
                "read /etc/passwd",
                f"write {folder}/made",
                f"read {inside}/../out",
                f"connect {path}",
            )
        ]
        outcomes = json.loads(ask(driver, "acts"))
        capabilities = Path(f"/proc/{process.pid}/status").read_text()

    assert (read, listed) == ("text", "file,made")
    assert (inside / "made").read_text() == "written"
    assert sorted(os.listdir(folder)) == ["in", "out"]
    assert set(refused) <= {"EACCES", "ENOENT", "EROFS"}
    for name in (
        "open a file",
        "open the own memory",
        "open /dev/kvm",
        "execute a file",
        "fork",
        "TCP socket",
    ):
        assert outcomes[name] in ("EACCES", "ENOENT", "EPERM"), name
    assert "CapEff:\t0000000000000000" in capabilities


def test_socket_in_a_declared_path_is_connected_to(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "in" / "server"))
        listener.listen()

        def answer() -> None:
            with listener.accept()[0] as sock:
                sock.send(b"hello")

        thread = threading.Thread(target=answer)
        thread.start()
        path = folder / "s"
        with served(f"{DEVICE},reach={folder}/in", path=path) as process, driver_of(path) as driver:
            assert process.poll() is None
            said = ask(driver, f"connect {folder}/in/server")
        thread.join()

    assert said == "hello"


def test_device_that_opens_what_it_did_not_declare_ends_with_one_sentence(folder: Path) -> None:
    path = folder / "s"
    with served(f"{DEVICE},reach={folder}/in", path=path) as process, driver_of(path) as driver:
        driver.queues[0].add([f"raise {folder}/out".encode()], [1])
        driver.queues[0].kick()
        assert process.wait(60) == 6
        assert process.stderr is not None
        said = process.stderr.read().splitlines()

    [sentence] = [line for line in said if "failed" in line]
    assert f"{folder}/out" in sentence
    assert "name the files that it uses in its paths" in sentence
    assert "Traceback" not in "".join(said)


@pytest.mark.parametrize(
    ("reach", "why"), [("/nowhere/at/all", "which is not there"), ("/proc/sys", "cannot be in a sandbox")]
)
def test_path_that_cannot_be_reached_is_refused_before_the_start(
    tmp_path: Path, reach: str, why: str
) -> None:
    done = device(f"{DEVICE},reach={reach}", "--socket", str(tmp_path / "s"))

    assert (done.returncode, done.stderr.count("\n")) == (64, 1)
    assert why in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["rng"], [f"{DEVICE},reach=/usr/share"]])
def test_what_a_device_does_is_allowed_where_all_else_kills(tmp_path: Path, words: list[str]) -> None:
    path = tmp_path / "s"
    identifier = ids.ENTROPY if words == ["rng"] else IDENTIFIER
    with served(*words, path=path, environment={KILL: "1"}) as process:
        for _ in range(3):  # one front end after the other
            with driver_of(path, identifier) as driver:
                assert driver.request(0, [] if words == ["rng"] else [b"read /"], [64])

    assert process.returncode == 0
    assert not path.exists()


def test_disk_is_read_and_written_where_all_else_kills(tmp_path: Path) -> None:
    from tests.support import disks

    path, image = tmp_path / "s", tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    data = bytes(range(256)) * 2
    with served(f"disk={image}", path=path, environment={KILL: "1"}) as process:
        front_end = VhostUser(
            BackEndConnection(lambda: connect(str(path)), "it"), ids.BLOCK, "disk", queues=1, config_size=60
        )
        with FakeDriver(front_end) as driver:
            for kind, given, room in ((disks.OUT, [data], 1), (disks.IN, [], 513), (disks.FLUSH, [], 1)):
                answer = driver.request(0, [disks.header(kind), *given], [room])
                assert answer[-1] == disks.OK, kind
                if kind == disks.IN:
                    assert answer[:-1] == data

    assert process.returncode == 0
    assert image.read_bytes()[: len(data)] == data


def test_socket_is_removed_also_when_the_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with served("rng", path=path) as process:
        assert path.is_socket()
        process.kill()
        until(lambda: not path.exists(), 60)


def test_strict_starts_where_the_host_lacks_nothing_and_is_refused_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "s"
    if lacking_here():
        done = device("rng", "--sandbox=strict", "--socket", str(path))
        assert (done.returncode, done.stderr.count("\n")) == (64, 1)
        assert "this host lacks a part of the sandbox" in done.stderr
        return
    with served("rng", "--sandbox=strict", path=path), driver_of(path, ids.ENTROPY) as driver:
        assert len(driver.request(0, [], [16])) == 16


def test_step_that_is_missing_is_told_once_and_strict_is_refused(tmp_path: Path) -> None:
    # A process under Landlock may mount nothing: its root cannot be emptied.
    program = (
        "from pyvmm.host.landlock import CONTENTS, EXECUTE, Ruleset\n"
        "from pyvmm.cli.main import entry\n"
        "rules = Ruleset()\nrules.allow('/', CONTENTS | EXECUTE | 1 << 9)\nrules.enforce()\nentry()"
    )
    command = [sys.executable, "-c", program, "device", "rng", "--socket", str(tmp_path / "s")]
    from pyvmm.host import landlock

    if not landlock.abi():
        pytest.skip("this kernel has no Landlock, by which the test has mounts refused")
    done = subprocess.run([*command, "--sandbox=strict"], stderr=subprocess.PIPE, text=True, check=False)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline(), process.stderr.readline()]
        process.terminate()
        rest = process.stderr.read()

    assert (done.returncode, done.stderr.count("\n")) == (64, 1)
    assert "--sandbox=on" in done.stderr
    assert "is served on" in lines[0]
    assert "this host lacks a part of the sandbox" in lines[1]
    assert "lacks" not in rest


def test_thread_that_began_before_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "early.py"
    file.write_text(
        "import threading\nfrom pyvmm import VirtioDevice\n\n\nclass Early(VirtioDevice):\n"
        "    device_id = 42\n\n    def __init__(self):\n        super().__init__()\n"
        "        threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    done = device(f"{file}:Early", "--socket", str(tmp_path / "s"))

    assert (done.returncode, done.stderr.count("\n")) == (64, 1)
    assert "has begun a thread" in done.stderr


def device(*words: str) -> subprocess.CompletedProcess[str]:
    """``pyvmm device``, which ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "pyvmm", "device", *words],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
