"""Files to and from a Linux guest by ``pyvmm.Guest``: trees, modes, what cannot be done."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyvmm
from tests.support.native import CONSOLE, volume

#: Seconds until a guest is ended, and until a test gives a wait up.
WATCHDOG = 240
LIMIT = 120
pytestmark = [pytest.mark.hw, pytest.mark.timeout(WATCHDOG + 30)]

QUIET = f"console={CONSOLE} quiet panic=-1"


@pytest.fixture(scope="module")
def guest() -> Iterator[pyvmm.Guest]:
    with pyvmm.Guest(memory="384M", cmdline=QUIET, timeout=20 * WATCHDOG) as guest:
        guest.wait_ready(LIMIT)
        yield guest


def looks_like(folder: Path) -> dict[str, object]:
    """What lies below *folder*: modes, and contents or targets."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode & 0o7777
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = (mode, path.read_bytes() if path.is_file() else None)
    return found


def test_file_goes_in_with_its_mode_and_comes_back(guest: pyvmm.Guest, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho ran $1\n")
    program.chmod(0o751)

    guest.put(program, "/opt/new/folders/program")

    assert guest.check(["/opt/new/folders/program", "well"]).stdout == "ran well\n"
    assert guest.check("stat -c %a /opt/new/folders/program").stdout == "751\n"
    guest.get("/opt/new/folders/program", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == program.read_bytes()
    assert (tmp_path / "back").stat().st_mode & 0o7777 == 0o751


def test_tree_goes_in_and_comes_back_the_same(guest: pyvmm.Guest, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "empty").mkdir()
    (tree / "deep" / "er" / "data").write_bytes(os.urandom(300_000))
    (tree / "two words").write_text("Grüße\n")
    (tree / "deep" / "private").write_text("")
    (tree / "deep" / "private").chmod(0o600)
    (tree / "empty").chmod(0o700)
    (tree / "link").symlink_to("deep/er/data")

    guest.put(tree, "/tmp/tree")

    assert guest.check("cat '/tmp/tree/two words'; readlink /tmp/tree/link").stdout == "Grüße\ndeep/er/data\n"
    guest.get("/tmp/tree", tmp_path / "back")
    assert looks_like(tmp_path / "back") == looks_like(tree)


def test_large_file_arrives_whole(guest: pyvmm.Guest, tmp_path: Path) -> None:
    size = volume(16 << 20)
    piece = os.urandom(1 << 16)
    (tmp_path / "large").write_bytes(piece * (size >> 16))

    guest.put(tmp_path / "large", "/tmp/large", timeout=LIMIT)

    assert int(guest.check("wc -c </tmp/large").stdout) == (size >> 16) << 16
    guest.get("/tmp/large", tmp_path / "back", timeout=LIMIT)
    guest.check("rm /tmp/large")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()


def test_content_is_written_and_read(guest: pyvmm.Guest) -> None:
    data = os.urandom(100_000)
    guest.write("/tmp/data", data)
    guest.write("/tmp/script", "#!/bin/sh\necho hello\n", mode=0o755)

    assert guest.read("/tmp/data") == data
    assert guest.check("/tmp/script").stdout == "hello\n"
    assert guest.read("/proc/version").startswith(b"Linux version")
    guest.write("/tmp/data", b"")
    assert guest.read("/tmp/data") == b""


def test_files_belong_to_who_puts_them(guest: pyvmm.Guest) -> None:
    guest.check("mkdir -m 777 /tmp/open")
    guest.write("/tmp/open/file", "x", user=1000)

    assert guest.check("stat -c %u /tmp/open/file").stdout == "1000\n"
    assert guest.run(["id", "-u"], user=1000).stdout == "1000\n"
    with pytest.raises(pyvmm.GuestFileError) as caught:
        guest.write("/root/file", "x", user=1000)
    assert caught.value.errno == errno.EACCES


def test_what_cannot_be_done_is_one_sentence_with_the_guests_reason(
    guest: pyvmm.Guest, tmp_path: Path
) -> None:
    for action, number in (
        (lambda: guest.read("/no/such/file"), errno.ENOENT),
        (lambda: guest.get("/no/such/file", tmp_path / "x"), errno.ENOENT),
        (lambda: guest.read("/tmp"), errno.EISDIR),
        (lambda: guest.write("/proc/nothing", "x"), errno.ENOENT),
    ):
        with pytest.raises(pyvmm.GuestFileError) as caught:
            action()
        assert caught.value.errno == number, str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        guest.put(tmp_path / "nothing", "/tmp/x")


def test_full_guest_says_so_and_goes_on(guest: pyvmm.Guest) -> None:
    guest.check("mkdir -p /tmp/small; mount -t tmpfs -o size=64k none /tmp/small")

    with pytest.raises(pyvmm.GuestFileError) as caught:
        guest.write("/tmp/small/file", b"x" * 3_000_000, timeout=LIMIT)

    assert caught.value.errno == errno.ENOSPC
    guest.check("umount /tmp/small")
    assert guest.run("echo on").stdout == "on\n"
