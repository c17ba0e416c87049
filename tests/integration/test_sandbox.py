"""The VM process of a Linux guest, tried from inside: no thread of it can do what its sandbox forbids.

The acts are tried by devices of the guest's (tests/support/attacking_device.py) when its drivers use them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.images.default import default_guest
from tests.support.command import environment, until
from tests.support.linux import LIMIT, QUIET
from tests.support.native import ARM64
from tests.support.other_user import UID
from tests.support.sandbox_acts import ACTS, DONE

pytestmark = [pytest.mark.hw, pytest.mark.timeout(LIMIT + 30)]

ROOT = Path(__file__).parents[2]
THREADS = {"vcpu", "loop", "device"}
#: What a host may forbid everybody or an ordinary user: it proves nothing about the sandbox.
FORBIDDEN_ANYWAY = {"EPERM", "EACCES", "ENOSYS"}
STRICT, OFF = (os.geteuid(), "strict"), (os.geteuid(), "off")
#: He has no namespaces of his own under a changed root, as in the lab: the rest must do.
ORDINARY = UID + 1, "on"


@pytest.fixture(scope="module")
def guest() -> Iterator[tuple[str, str]]:
    """Debian's kernel and our initramfs where every user can read them."""
    files = default_guest()
    with tempfile.TemporaryDirectory(prefix="pyvmm-test-") as folder:
        os.chmod(folder, 0o755)
        copies = [str(shutil.copy(path, folder)) for path in (files.kernel, files.initrd)]
        for copy in copies:
            os.chmod(copy, 0o644)
        yield copies[0], copies[1]


@pytest.mark.parametrize(("user", "sandbox"), [STRICT] if ARM64 else [STRICT, ORDINARY, OFF])
def test_no_thread_of_a_linux_guests_process_can_do_a_forbidden_act(
    guest: tuple[str, str], tmp_path: Path, user: int, sandbox: str
) -> None:
    kernel, initrd = guest
    command = ["pyvmm", "run", "--kernel", kernel]
    if user != os.geteuid():
        if os.geteuid():
            pytest.skip("only root can become another user")
        command = ["tests.support.run_as_user", str(user), kernel]
    # Its process takes long to begin on the emulated arm64 host, and not every user may run this Python.
    apart = (user, sandbox) == STRICT and not ARM64
    attackers = ["Attacking", "WithOwnThread", *(["Apart,isolated"] if apart else [])]
    devices = [f"--device=tests.support.attacking_device:{name}" for name in attackers]
    options = ["--initrd", initrd, "--cmdline", QUIET, "--console", "none", "--timeout", str(LIMIT)]
    errors = tmp_path / "errors"
    told: dict[str, dict[str, str]] = {}
    tasks = set()
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", *command, *options, "--sandbox", sandbox, *devices],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said = json.loads(line)
                told[said["thread"]] = said["outcomes"]
                tasks.add(said["id"])
                if told.keys() == THREADS:
                    break
            if apart:
                until(lambda: process.poll() is not None or "not refused" in errors.read_text(), LIMIT)
            process.terminate()
            process.communicate(timeout=LIMIT)
        finally:
            process.kill()

    assert process.returncode == 3, errors.read_text()
    if apart:
        assert f"of {len(ACTS)} acts these were not refused: []" in errors.read_text()
    assert told.keys() == THREADS
    assert len(tasks) == len(THREADS)
    for thread, outcomes in told.items():
        if sandbox != "off":
            assert outcomes == {name: act.refused for name, act in ACTS.items()}, thread
        else:
            assert all(outcomes[name] in {act.free, *FORBIDDEN_ANYWAY} for name, act in ACTS.items()), (
                outcomes
            )
            assert sum(outcomes[name] != act.refused for name, act in ACTS.items()) > 70
            assert {"open a file", "fork", "map code", "another VM"} <= {
                name for name, outcome in outcomes.items() if outcome == DONE
            }
