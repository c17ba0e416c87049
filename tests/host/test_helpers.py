"""The programs that pyvmm starts, as the kernel shows them: each is confined, by pyvmm or by itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pyvmm.errors import PyvmmError
from pyvmm.virtio.fs.virtiofsd import find_program
from tests.support.command import until
from tests.support.other_user import UID, needs_root

pytestmark = [pytest.mark.timeout(120), needs_root]

ROOT = Path(__file__).parents[2]
#: Capabilities by number that virtiofsd keeps: over owners and modes of files, and devices as files.
FILES = sum(1 << number for number in (0, 1, 3, 4, 6, 7, 27, 31))
NAMESPACES = ("user", "mnt", "net", "pid", "ipc", "uts")

try:
    find_program()
except PyvmmError as missing:
    needs_virtiofsd = pytest.mark.skip(reason=str(missing))
else:
    needs_virtiofsd = pytest.mark.skipif(False, reason="")

USERS = pytest.mark.parametrize("user", [-1, UID])


class Helper(NamedTuple):
    """One process of a helper program."""

    name: str
    status: dict[str, str]
    #: What its descriptors are.
    files: list[str]
    #: In which namespaces it is without this process.
    apart: set[str]
    root: list[str]
    limits: str


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that every user can walk to and UID may write to; its name marks what is started on it."""
    with tempfile.TemporaryDirectory(prefix="pyvmm-helper-") as name:
        path = Path(name).resolve()
        os.chown(path, UID, UID)
        yield path


@contextlib.contextmanager
def helpers(kind: str, user: int, mark: str, word: str) -> Iterator[list[Helper]]:
    command = [sys.executable, "-m", "tests.support.helper_process", kind, str(user), mark, word]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        if not line:
            said = process.stderr.read().decode()
            if "namespace" in said or "Operation not permitted" in said:
                pytest.skip(f"this host gives no namespaces: {said.splitlines()[-1]}")
            raise AssertionError(said)
        pids = [pid for pid in json.loads(line) if pid != process.pid]
        if kind == "net":  # its last step is in the background, before it looks at the network
            until(lambda: all(status_of(pid)["Seccomp"] == "2" for pid in pids), 60)
        found = [look(pid) for pid in pids]
        assert all("helper_process" not in file for helper in found for file in helper.files)
        yield found
        process.stdin.close()
        process.wait(60)


def look(pid: int) -> Helper:
    proc = Path(f"/proc/{pid}")
    return Helper(
        (proc / "comm").read_text().strip(),
        status_of(pid),
        files_of(pid),
        {
            name
            for name in NAMESPACES
            if os.readlink(proc / "ns" / name) != os.readlink(f"/proc/self/ns/{name}")
        },
        os.listdir(proc / "root"),
        (proc / "limits").read_text(),
    )


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def files_of(pid: int) -> list[str]:
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(path))
    return found


def confined(helper: Helper) -> None:
    assert (helper.status["Seccomp"], helper.status["NoNewPrivs"]) == ("2", "1"), helper
    assert any(line.split()[4:6] == ["0", "0"] for line in helper.limits.splitlines() if "core" in line), (
        helper
    )


@pytest.mark.skipif(not shutil.which("qemu-nbd"), reason="qemu-utils is not installed")
@pytest.mark.parametrize(("user", "owner"), [(-1, 0), (-1, UID), (UID, UID)])
def test_qemu_nbd_has_its_image_and_nothing_else(folder: Path, user: int, owner: int) -> None:
    if user >= 0 and not may_run_python(user):
        pytest.skip("only root may run this Python")
    image = folder / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True)
    os.chown(image, owner, owner)
    os.chmod(image, 0o600)
    with helpers("disk", user, folder.name, str(image)) as found:
        # The image is named by its descriptor, so that its server is found by what it has open.
        [server] = [look(pid) for pid in servers(image)]

    confined(server)
    # Root opens what is another user's by this capability alone; Landlock says which files.
    assert int(server.status["CapEff"], 16) == (1 << 1 if user < 0 and owner else 0)
    assert int(server.status["CapBnd"], 16) == int(server.status["CapEff"], 16)
    assert server.apart >= {"net"}
    named = {file for file in server.files if file.startswith("/") and not file.startswith("/memfd:qemu-nbd")}
    assert named == {"/dev/null", str(image)}
    assert found == []


def may_run_python(user: int) -> bool:
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import pyvmm.host.restricted"],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            user=user,
            group=user,
            extra_groups=[],
            check=False,
        )
    except PermissionError:
        return False
    return done.returncode == 0


def servers(image: Path) -> list[int]:
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text() == "qemu-nbd\n":
                pid = int(comm.parent.name)
                found += [pid] if str(image) in files_of(pid) else []
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended
    return found


@pytest.mark.skipif(not shutil.which("passt"), reason="passt is not installed")
@USERS
def test_passt_has_no_file_and_no_capability(user: int) -> None:
    mtu = 40000 + os.getpid() % 20000
    with helpers("net", user, str(mtu), f"user,mtu={mtu}") as found:
        pass

    [passt] = found
    confined(passt)
    assert int(passt.status["CapEff"], 16) == 0
    assert "0" not in passt.status["Uid"].split()
    assert passt.apart >= {"user", "mnt", "pid", "ipc", "uts"}  # not the network: it is what passt is for
    assert passt.root == []
    assert {file for file in passt.files if file.startswith("/")} <= {"/dev/null"}


@needs_virtiofsd
@pytest.mark.parametrize(
    ("user", "words"), [(-1, ""), (-1, ",ro"), (-1, ",as-root"), (UID, ""), (UID, ",ro")]
)
def test_virtiofsd_has_the_shared_directory_for_its_root(folder: Path, user: int, words: str) -> None:
    (folder / "file").write_text("text")
    with helpers("share", user, str(folder), f"{folder}:tag{words}") as found:
        pass

    # The program in C has a second process, which waits for the first and has nothing.
    [server] = [helper for helper in found if helper.status["Seccomp"] == "2"]
    confined(server)
    assert server.root == ["file"]
    assert server.apart >= {"mnt", "net", "pid"} | (set() if "as-root" in words else {"user"})
    assert int(server.status["CapEff"], 16) & ~FILES == 0
    for waiting in found:
        assert waiting.status["NoNewPrivs"] == "1"
        assert waiting is server or int(waiting.status["CapEff"], 16) == 0
        assert ("0" in waiting.status["Uid"].split()) == ("as-root" in words)
