"""A running machine in the sandbox: what its process cannot do, seen from inside and from outside.

The machine is a real one on /dev/kvm, in a process of its own (tests/support/sandboxed.py); the acts are
tried in a vCPU's thread, in the loop's, and in one that began after the guest.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyvmm.arch import native
from pyvmm.host.sandbox import KILL, NOBODY
from tests.support.firmware_guest import BIN, PARAMETERS
from tests.support.other_user import UID, needs_root
from tests.support.sandbox_acts import ACTS, DONE

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
#: How often the guest writes to the attacker's port: for longer than any test.
FOR_EVER = 1 << 31
THREADS = ("vcpu", "loop", "another")
#: What a host may forbid everybody, in a container, or an ordinary user: it proves nothing about the sandbox.
FORBIDDEN_ANYWAY = {"EPERM", "EACCES", "ENOSYS"}
#: Acts that every host lets an ordinary user do.
ALWAYS_FREE = {
    "open a file",
    "look at a file",
    "fork",
    "signal oneself",
    "make code of data",
    "map code",
}
ALWAYS_FREE |= {
    "UNIX socket",
    "memfd_create",
    "pipe",
    "dup",
    "prctl",
    "be a user",
    "change limits",
    "another VM",
}


class Seen(NamedTuple):
    """What a run with the scene ``acts`` showed."""

    outcomes: dict[str, dict[str, str]]
    #: By thread: the lines of /proc/PID/task/TID/status.
    status: list[dict[str, str]]
    #: What the descriptors are; empty when this test's user may not look.
    files: list[str]
    root: list[str]
    end: dict[str, Any]


def firmware(folder: Path, name: str, *parameters: int) -> str:
    program = bytearray((BIN / name).read_bytes())
    if parameters:
        struct.pack_into(f"<{len(parameters)}Q", program, PARAMETERS, *parameters)
    path = folder / name
    path.write_bytes(program)
    return str(path)


@contextmanager
def start(
    folder: Path, scene: str, program: str, sandbox: bool, user: int | None, kill: bool = False
) -> Iterator[Any]:
    for name in ("disk", "disk2", "canary"):
        (folder / name).write_bytes(bytes(1 << 20))
    task = {
        "firmware": program,
        "disk": str(folder / "disk"),
        "canary": str(folder / "canary"),
        "sandbox": sandbox,
        "user": user,
        "scene": scene,
    }
    environment = {**os.environ, **({KILL: "1"} if kill else {})}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.sandboxed", json.dumps(task)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def forever(folder: Path) -> str:
    return firmware(folder, "io_loop.bin", FOR_EVER, *(() if native.NAME == "arm64" else (0x80,)))


def told(process: Any) -> list[dict[str, Any]]:
    """What it says to its end, which must be a good one."""
    output = process.stdout.read()
    assert process.wait() == 0, (process.returncode, output)
    return [json.loads(line) for line in output.splitlines()]


def watch(folder: Path, sandbox: bool, user: int | None) -> Seen:
    outcomes: dict[str, dict[str, str]] = {}
    with start(folder, "acts", forever(folder), sandbox, user) as process:
        for line in process.stdout:
            said = json.loads(line)
            if "thread" in said:
                outcomes[said["thread"]] = said["outcomes"]
            if "running" in said:
                break
        proc = Path(f"/proc/{process.pid}")
        status = [
            dict(row.split(":\t", 1) for row in path.read_text().splitlines() if ":\t" in row)
            for path in proc.glob("task/*/status")
        ]
        try:
            files = [os.readlink(path) for path in (proc / "fd").iterdir()]
            root = os.listdir(proc / "root")
        except PermissionError:
            files, root = [], []
        process.stdin.close()  # stops the guest
        (end,) = told(process)
    return Seen(outcomes, status, files, root, end)


USERS = [
    pytest.param(None, id="as who runs the tests"),
    pytest.param(UID + 1, id="as an ordinary user", marks=needs_root),
]


@pytest.fixture(scope="module", params=USERS)
def confined(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return watch(tmp_path_factory.mktemp("confined"), True, request.param)


@pytest.mark.parametrize("thread", THREADS)
def test_no_forbidden_act_succeeds(confined: Seen, thread: str) -> None:
    assert len(ACTS) > 100
    assert confined.outcomes[thread] == {name: act.refused for name, act in ACTS.items()}


def test_every_thread_is_seen_confined_from_outside(confined: Seen) -> None:
    assert len(confined.status) >= 4  # the loop, a vCPU, the network device, the one that began last
    for status in confined.status:
        assert status["Seccomp"] == "2", status
        assert status["NoNewPrivs"] == "1", status
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(status[capabilities], 16) == 0, status
        assert "0" not in status["Uid"].split() + status["Gid"].split()
    # An ordinary user may empty the bounding set in a user namespace only.
    if not any("namespace" in sentence for sentence in confined.end["lacking"]):
        assert {int(status["CapBnd"], 16) for status in confined.status} == {0}


def test_descriptors_are_those_that_the_machine_needs(confined: Seen) -> None:
    if not confined.files:
        pytest.skip("only root may look at the files of a process that is not dumpable")
    # Its standard error is whatever the tests' is.
    named = [file for file in confined.files if file.startswith("/") and not file.startswith("/dev/")]
    ours = [file for file in named if "/confined" in file]
    assert [Path(file).name for file in ours] == ["disk"]
    assert len(named) - len(ours) <= 1
    kinds = {file.partition(":[")[0] for file in confined.files if not file.startswith("/")}
    vm = {kind for kind in kinds if kind.startswith("anon_inode:kvm-")}
    assert kinds - vm == {"pipe", "socket", "anon_inode"}
    assert vm >= {"anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0"}
    assert confined.files.count("/dev/kvm") == 1


def test_root_directory_is_empty_where_the_host_has_user_namespaces(confined: Seen) -> None:
    if any("namespace" in sentence or "empty root" in sentence for sentence in confined.end["lacking"]):
        pytest.skip(f"this host cannot: {confined.end['lacking']}")
    assert confined.root == []


def test_nothing_was_opened_imported_or_started_after_it_was_entered(confined: Seen) -> None:
    assert confined.end["late"] == []
    assert (confined.end["code"], confined.end["reason"]) == (3, "stopped")


@pytest.mark.parametrize("user", USERS)
def test_without_the_sandbox_the_same_acts_get_as_far_as_the_kernel(tmp_path: Path, user: int | None) -> None:
    seen = watch(tmp_path, False, user)

    for thread in THREADS:
        outcomes = seen.outcomes[thread]
        for name, act in ACTS.items():
            assert outcomes[name] == act.free or outcomes[name] in FORBIDDEN_ANYWAY, (thread, name)
        free = ALWAYS_FREE - ({"another VM"} if user is not None else set())
        assert {name for name, outcome in outcomes.items() if outcome == DONE} >= free
        # Those that came to something else than in the sandbox prove it.
        assert sum(outcomes[name] != act.refused for name, act in ACTS.items()) > 70
    assert {status["Seccomp"] for status in seen.status} == {"0"} or native.NAME == "arm64"


@pytest.mark.parametrize("user", USERS)
def test_what_a_machine_does_is_allowed_where_all_else_kills(tmp_path: Path, user: int | None) -> None:
    with start(tmp_path, "traffic", forever(tmp_path), True, user, kill=True) as process:
        served, end = told(process)

    assert served["served"]
    assert (end["code"], end["reason"], end["late"]) == (3, "stopped", [])


@pytest.mark.skipif(native.NAME == "arm64", reason="the program is x86-64's")
def test_guest_that_uses_a_device_at_full_speed_is_served_where_all_else_kills(tmp_path: Path) -> None:
    program = firmware(tmp_path, "virtio_rng.bin", 0xD000_0000, 500, 0)
    with start(tmp_path, "guest", program, True, None, kill=True) as process:
        (end,) = told(process)

    assert (end["code"], end["reason"], end["late"]) == (32, "debug-exit", [])
    assert end["printed"].endswith("ok virtio_rng\n")


@pytest.mark.skipif(native.NAME == "arm64", reason="the programs are x86-64's")
@pytest.mark.parametrize("name", ["triple_fault.bin", "no_emulation.bin"])
def test_end_of_a_guest_that_cannot_go_on_is_told_as_without_the_sandbox(tmp_path: Path, name: str) -> None:
    ends = []
    for sandbox in (False, True):
        with start(tmp_path, "guest", firmware(tmp_path, name), sandbox, None) as process:
            ends.append(told(process)[-1])

    assert [end["code"] for end in ends] == [ends[0]["code"]] * 2
    assert ends[0]["reason"] == ends[1]["reason"]
    assert ends[0]["code"] in (5, 7)


def test_root_becomes_nobody(confined: Seen) -> None:
    users = {tuple(status["Uid"].split()) for status in confined.status}
    assert len(users) == 1
    if os.geteuid() == 0:
        assert users <= {(str(NOBODY),) * 4, (str(UID + 1),) * 4}
