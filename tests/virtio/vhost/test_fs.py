"""Shared directories: the words of the option, and virtiofsd's life beside ours."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.host_objects import HostObjects
from pyvmm.config import DEVICE_KINDS
from pyvmm.errors import PyvmmError
from pyvmm.testing import FakeDriver
from pyvmm.virtio.fs import virtiofsd as fs
from pyvmm.virtio.fs.device import Share
from pyvmm.virtio.fs.virtiofsd import command
from pyvmm.virtio.options import make_device
from tests.support.process import children

pytestmark = pytest.mark.timeout(60)

try:
    fs.find_program()
except PyvmmError as missing:
    needs_virtiofsd = pytest.mark.skip(reason=str(missing))
else:
    needs_virtiofsd = pytest.mark.skipif(False, reason="")

#: pytest's folders are root's where root runs it.
AS_ROOT = "" if os.geteuid() else ",as-root"
#: FUSE_INIT (include/uapi/linux/fuse.h): a header of 40 bytes and version, readahead, flags.
FUSE_INIT = struct.pack("<IIQQIIII IIII", 56, 26, 1, 0, 0, 0, 0, 0, 7, 31, 0, 0)


def share(text: str) -> Share:
    device = make_device(DEVICE_KINDS["share"].parse(text))
    assert isinstance(device, Share)
    return device


def tag_of(device: Share) -> bytes:
    return bytes(device.config.data)[:36].rstrip(b"\0")


@needs_virtiofsd
@pytest.mark.parametrize(
    ("text", "tag"),
    [("{}", b"some"), ("{}:mine", b"mine"), ("{},tag=mine", b"mine"), ("{}:mine,ro", b"mine")],
)
def test_tag_is_what_was_said_or_the_directorys_name(tmp_path: Path, text: str, tag: bytes) -> None:
    (tmp_path / "some").mkdir()

    device = share(text.format(tmp_path / "some") + AS_ROOT)
    found = tag_of(device)
    device.close()

    assert found == tag


@needs_virtiofsd
@pytest.mark.parametrize("words", ["", ",ro"])
def test_virtiofsd_speaks_fuse_and_is_gone_when_the_device_is_closed(tmp_path: Path, words: str) -> None:
    device = share(f"{tmp_path}{words}{AS_ROOT}")
    [process] = children("virtiofsd")

    with FakeDriver(device) as driver:
        reply = driver.request(1, [FUSE_INIT], [80])

    unique = struct.unpack_from("<IiQ", reply)
    assert unique == (len(reply), 0, 1)
    assert process not in children("virtiofsd")


@needs_virtiofsd
def test_virtiofsd_when_this_process_is_killed_ends_with_it(tmp_path: Path) -> None:
    key = "" if os.geteuid() else ", 'as-root': True"
    code = (
        "from pyvmm.virtio.options import make_device\n"
        "from pyvmm.config import DeviceOptions\nimport os, signal\n"
        f"device = make_device(DeviceOptions('share', {{'path': {str(tmp_path)!r}{key}}}))\n"
        "print(device.connection.process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    child = os.pidfd_open(int(done.stdout)) if os.path.exists(f"/proc/{int(done.stdout)}") else -1
    if child >= 0:
        import select

        ended = select.select([child], [], [], 10)[0]
        os.close(child)
        assert ended, "virtiofsd lives on"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("/nonexistent/directory", "is not a directory"),
        ("/dev/null:x", "is not a directory"),
        ("/tmp,tag=" + "x" * 37, "1 to 36 bytes"),
        ("/tmp,speed=9", "'speed' is unknown"),
        ("/tmp,ro=maybe", "neither on nor off"),
        ("/tmp,as-root=maybe", "neither on nor off"),
    ],
)
def test_words_that_make_no_sense_are_one_sentence(text: str, why: str) -> None:
    with pytest.raises(PyvmmError, match=why):
        share(text)


def test_host_without_virtiofsd_is_told_which_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fs, "PROGRAMS", ())
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(PyvmmError, match="install the package virtiofsd"):
        share(f"{tmp_path}{AS_ROOT}")


#: A virtiofsd whose first answers are right, and that then has one queue too few.
LATE = f"""#!{sys.executable}
import socket, struct, sys
peer, _ = socket.socket(fileno=int(sys.argv[-1].removeprefix("--fd="))).accept()
answers = {{1: 1 << 30, 15: 1, 17: 1}}  # GET_FEATURES, GET_PROTOCOL_FEATURES: MQ, GET_QUEUE_NUM
while head := peer.recv(12):
    request, _, size = struct.unpack("<III", head)
    if size:
        peer.recv(size)
    if request == 17:
        print("one queue is\x1b[2J all there is", file=sys.stderr, flush=True)
    if request in answers:
        peer.send(struct.pack("<IIIQ", request, 5, 8, answers[request]))
"""


def test_virtiofsd_that_fails_late_tells_its_own_reason_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "virtiofsd"
    program.write_text(LATE)
    program.chmod(0o755)
    monkeypatch.setattr(fs, "PROGRAMS", (str(program),))
    before = sorted(os.listdir("/proc/self/fd"))

    with pytest.raises(PyvmmError) as caught:
        share(f"{tmp_path}{AS_ROOT}")

    assert "virtiofsd does not start: one queue is\\x1b[2J all there is" in str(caught.value)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_virtiofsd_that_does_not_start_tells_its_own_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "virtiofsd"
    program.write_text("#!/bin/sh\necho no room today >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(fs, "PROGRAMS", (str(program),))

    with pytest.raises(PyvmmError, match="no room today"):
        share(f"{tmp_path}{AS_ROOT}")


@pytest.mark.parametrize(
    ("program", "readonly", "root", "begins"),
    [
        (fs.PROGRAMS[0], False, True, ["/usr/libexec/virtiofsd", "--shared-dir=/d"]),
        (fs.PROGRAMS[0], False, False, ["/usr/libexec/virtiofsd", "--shared-dir=/d"]),
        (fs.PROGRAMS[1], False, True, ["/usr/lib/qemu/virtiofsd", "-f"]),
        (fs.PROGRAMS[1], False, False, ["unshare", "--user", "--map-root-user", "/usr/lib/qemu/virtiofsd"]),
        (fs.PROGRAMS[1], True, True, ["unshare", "--mount", "sh"]),
        (fs.PROGRAMS[0], True, False, ["unshare", "--user", "--map-root-user", "--mount", "sh"]),
    ],
)
def test_command_fits_program_and_user(program: str, readonly: bool, root: bool, begins: list[str]) -> None:
    assert command(program, "/d", readonly, root)[: len(begins)] == begins


@needs_virtiofsd
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_ordinary_user_shares_with_the_program_in_c(tmp_path: Path) -> None:
    place = Path("/tmp/pyvmm-test-nobody")  # a path that another user can walk
    place.mkdir(exist_ok=True)
    os.chown(place, 65534, 65534)
    listener, sock = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    with listener, sock:
        listener.bind("")
        listener.listen(1)
        sock.connect(listener.getsockname())
        words = command(fs.find_program(), str(place), True, False)
        number = listener.fileno()
        process = subprocess.Popen(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *words, f"--fd={number}"],
            pass_fds=(number,),
            stderr=subprocess.PIPE,
        )
        sock.settimeout(20)
        sock.send(struct.pack("<III", 1, 1, 0))
        answer = sock.recv(100)
    said = process.communicate(timeout=20)[1]
    place.rmdir()

    assert answer[:4] == b"\1\0\0\0", said


#: FUSE_CREATE of a program with the bit that runs it as its owner.
NAME = b"program\0"
CREATE = struct.pack("<IIQQIIII IIII", 56 + len(NAME), 35, 2, 1, 0, 0, 0, 0, 0o102, 0o104755, 0, 0) + NAME


@pytest.fixture
def anothers() -> Iterator[Path]:
    """A directory of nobody's, that everybody can walk to."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    if subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not allowed here")
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    os.chown(place, 65534, 65534)
    yield place
    shutil.rmtree(place)


@needs_virtiofsd
@pytest.mark.parametrize(("words", "owner"), [("", 65534), (",as-root", 0)])
def test_guests_root_has_the_rights_of_the_directorys_owner_where_root_shares_it(
    anothers: Path, words: str, owner: int
) -> None:
    device = share(f"{anothers}{words}")
    [process] = children("virtiofsd")
    status = Path(f"/proc/{process}/status").read_text()

    with FakeDriver(device) as driver:
        driver.request(1, [FUSE_INIT], [80])
        reply = driver.request(1, [CREATE], [160])

    made = os.stat(anothers / "program")
    assert struct.unpack_from("<IiQ", reply)[1:] == (0, 2)
    assert (made.st_uid, made.st_mode & 0o7777) == (owner, 0o4755)
    assert f"Uid:\t{owner}\t{owner}\t{owner}\t{owner}" in status


@needs_virtiofsd
def test_read_only_directory_is_served_with_its_owners_rights(anothers: Path) -> None:
    with FakeDriver(share(f"{anothers},ro")) as driver:
        driver.request(1, [FUSE_INIT], [80])
        reply = driver.request(1, [CREATE], [160])

    assert struct.unpack_from("<Ii", reply)[1] == -errno.EROFS
    assert not list(anothers.iterdir())


def test_directory_of_roots_is_not_shared_by_root_unless_told_so(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root has directories of root's to share")

    with pytest.raises(PyvmmError, match="give a directory of another user's, or as-root"):
        share(str(tmp_path))


def test_as_root_is_for_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(PyvmmError, match="as-root is for root"):
        share(f"{tmp_path},as-root")


@needs_virtiofsd
def test_virtiofsd_serves_one_machine_after_the_other_and_is_gone_with_the_guest(tmp_path: Path) -> None:
    """Each machine's driver begins with FUSE_INIT, in a memory of its own."""
    host_objects = HostObjects()
    options = DEVICE_KINDS["share"].parse(f"{tmp_path}{AS_ROOT}")
    before = children("virtiofsd")
    pids = []

    for _ in range(3):
        device = make_device(options, host_objects=host_objects)
        pids.append([pid for pid in children("virtiofsd") if pid not in before])
        with FakeDriver(device) as driver:
            reply = driver.request(1, [FUSE_INIT], [80])
        assert struct.unpack_from("<IiQ", reply) == (len(reply), 0, 1)
    host_objects.close()

    assert pids[0] and pids == [pids[0]] * 3
    assert children("virtiofsd") == before
