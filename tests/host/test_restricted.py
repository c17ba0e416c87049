"""A program that is started with no file but those it is given."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pyvmm.host import landlock
from pyvmm.host.restricted import restricted

pytestmark = pytest.mark.skipif(not landlock.abi(), reason="this kernel has no Landlock")
SHELL = shutil.which("sh") or "/bin/sh"


def run(script: str, fds: Sequence[int] = (), way: Any = restricted, **keys: Any) -> tuple[int, str]:
    """Status and output of a shell's *script*, errors among it."""
    command = [SHELL, "-c", script]
    done = subprocess.run(
        way(command, **keys) if way is not None else command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=fds,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("secret")
    return path


@pytest.mark.parametrize(
    "act",
    [
        "cat {secret}",
        "echo more >>{secret}",
        "rm {secret}",
        "mv {secret} {secret}.other",
        "ln {secret} {secret}.other",
        "ln -s {secret} {secret}.other",
        "mkdir {secret}.other",
        "touch {secret}.other",
        "ls {folder}",
        "cat /etc/passwd",
        "cat /proc/self/environ",
        "cat /proc/1/status",
    ],
)
def test_other_files_are_out_of_reach(secret: Path, act: str) -> None:
    act = act.format(secret=secret, folder=secret.parent)
    status, output = run(act)
    assert status != 0
    assert "denied" in output or "ermitted" in output
    assert (secret.read_text(), os.listdir(secret.parent)) == ("secret", ["secret"])

    assert run(act, way=None)[0] == 0


def test_descriptors_are_opened_anew_as_far_as_they_may_be(secret: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("other")
    with secret.open() as one, other.open() as two:
        mine, theirs = one.fileno(), two.fileno()
        script = f"cat /proc/self/fd/{mine} /proc/self/fd/{theirs} && echo more >>/proc/self/fd/{theirs}"
        assert run(script, (mine, theirs), reads=[mine], writes=[theirs]) == (0, "secretother")
        assert other.read_text() == "othermore\n"

        status, _ = run(f"echo more >>/proc/self/fd/{mine}", (mine,), reads=[mine])
        assert (status != 0, secret.read_text()) == (True, "secret")


def test_folder_takes_files_and_no_more(tmp_path: Path) -> None:
    script = f"cd {tmp_path} && echo one >file && cat file && rm file"
    assert run(script, folders=[str(tmp_path)]) == (0, "one\n")
    assert run(f"mkdir {tmp_path}/sub", folders=[str(tmp_path)])[0] != 0


def test_network_is_out_of_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
        assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
        done = subprocess.run(
            restricted([sys.executable, "-I", "-S", "-c", script], folders=[sys.base_prefix]),
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0
        assert b"unreachable" in done.stderr or b"denied" in done.stderr or b"refused" in done.stderr


#: Of tests/support/sandbox_acts.py: what no helper is allowed, and what one that is alone is not.
FORBIDDEN = """ptrace,read another's memory,write another's memory,process_madvise,kcmp,pidfd_open
pidfd_getfd,pidfd_send_signal,signal oneself,signal all,tkill,rt_sigqueueinfo,bpf,perf_event_open,userfaultfd
io_uring_setup,io_uring_enter,keyctl,add_key,request_key,fanotify,open by handle,personality,unshare,setns
mount,unmount,pivot_root,change the root,fsopen,init_module,delete_module,kexec,reboot,kernel log
sethostname,set the clock,accounting""".replace("\n", ",").split(",")
ALONE = [
    "fork",
    "clone",
    "clone with a namespace",
    "TCP socket",
    "UNIX socket",
    "netlink socket",
    "connect",
    "bind",
]
EXECUTE = ["execute a file", "execveat"]


@pytest.mark.parametrize("alone", [False, True])
def test_system_calls_of_an_attacker_are_refused(alone: bool) -> None:
    root = str(Path(__file__).parents[2])
    script = f"import sys; sys.path.insert(0, {root!r}); from tests.support.sandbox_acts import tried\n"
    script += "import json; print(json.dumps(tried()))"
    command = [sys.executable, "-I", "-S", "-c", script]
    before, inside = (
        json.loads(subprocess.run(each, stdout=subprocess.PIPE, timeout=60, check=True).stdout)
        for each in (command, restricted(command, folders=[sys.base_prefix, sys.prefix, root], alone=alone))
    )

    assert [name for name in FORBIDDEN if inside[name] != "EPERM"] == []
    assert sum(before[name] == "done" for name in FORBIDDEN) >= 8
    if alone:
        assert [name for name in ALONE if inside[name] != "EPERM"] == []
        assert inside["clone3"] == "ENOSYS"
        # Nobody answers for a second program: its filter's listener is closed.
        assert {inside[name] for name in EXECUTE} == {"ENOSYS"}
    else:
        assert inside["fork"] == "done"
    assert (before["fork"], before["UNIX socket"]) == ("done", "done")


def test_program_that_is_alone_executes_no_other() -> None:
    script = "import os\ntry:\n    os.execv('/bin/true', ['true'])\nexcept OSError:\n    print('refused')"
    command = [sys.executable, "-I", "-S", "-c", script]
    for alone, said in ((False, ""), (True, "refused\n")):
        given = restricted(command, folders=[sys.base_prefix, sys.prefix], alone=alone)
        done = subprocess.run(given, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
        assert done.stdout == said


def test_program_that_is_not_there_fails() -> None:
    done = subprocess.run(restricted(["/nowhere/program"]), stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode != 0


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv(1) has the kernel kill it with its parent")
def test_program_whose_parent_was_gone_before_it_could_be_killed_with_it_does_not_begin() -> None:
    """It was made for the process of the test; here its parent is a shell."""
    words = ["setpriv", "--pdeathsig", "KILL", *restricted([SHELL, "-c", "echo begun"])]

    done = subprocess.run(
        [SHELL, "-c", '"$@"; exit $?', "sh", *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "the process that it was for has ended\n"

    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "begun\n")
