"""Image files that are not: each one is one sentence, none hangs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.arch.arm64.platform import Arm64Platform
from pyvmm.arch.x86_64.platform import X86Platform
from pyvmm.boot.errors import ImageError
from pyvmm.config import Config
from pyvmm.machine.payload import kernel_cmdline, load_image, read_image
from tests.support.images import MIB, bzimage, ram
from tests.support.process import descriptors

ROOT = Path(__file__).parents[2]


def refusal(path: object) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(str(path), "kernel")
    sentence = str(caught.value)
    assert sentence.startswith(f"kernel {path} ")
    assert "\n" not in sentence
    return sentence


def test_read_image_when_regular_gives_the_bytes_and_keeps_no_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"MZ" * 5000)
    before = descriptors()

    data = read_image(str(path), "kernel")

    assert data == b"MZ" * 5000
    del data
    assert descriptors() == before


def test_read_image_when_missing_says_so(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none")


def test_read_image_when_a_directory_says_so(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path)


@pytest.mark.timeout(20)
def test_read_image_when_a_fifo_says_so_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    assert "not a regular file" in refusal(tmp_path / "fifo")


def test_read_image_when_empty_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    assert "is empty" in refusal(tmp_path / "empty")


def test_read_image_when_larger_than_any_image_says_so_without_reading(tmp_path: Path) -> None:
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 40)

    assert "has 1T; give an image of at most 4G" in refusal(tmp_path / "sparse")


def test_an_image_stays_whole_when_its_file_is_cut_off_later(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"MZ" * 50000)

    data = read_image(str(path), "kernel")
    os.truncate(path, 0)

    assert data == b"MZ" * 50000


def test_read_image_when_cut_off_meanwhile_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"MZ" * 50000)
    preadv = os.preadv

    def cutting(fd: int, buffers: list[memoryview], offset: int) -> int:
        done = preadv(fd, [buffers[0][:4096]], offset)
        os.truncate(path, 4096)
        return done

    monkeypatch.setattr(os, "preadv", cutting)

    assert "was cut off while it was read" in refusal(path)


def test_read_image_when_a_device_says_so() -> None:
    assert "not a regular file" in refusal("/dev/zero")


def test_read_image_when_a_socket_says_so(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    os.mknod(path, 0o600 | stat.S_IFSOCK)

    assert "cannot be read" in refusal(path)


def test_read_image_when_a_loop_of_links_says_so(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")

    assert "cannot be read" in refusal(tmp_path / "loop")


def test_read_image_when_unreadable_says_so(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"MZ")
    path.chmod(0)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    # Root reads everything: another user does it, in a process of its own.
    code = (
        "import os, sys\n"
        "from pyvmm.boot.errors import ImageError\n"
        "from pyvmm.machine.payload import read_image\n"
        "os.getuid() or os.setuid(65534)\n"
        "try: read_image(sys.argv[1], 'kernel')\n"
        "except ImageError as error: print(error)"
    )

    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)

    assert done.stdout == f"kernel {path} cannot be read: Permission denied\n", done.stderr


@pytest.mark.parametrize(
    ("platform", "keys", "words"),
    [
        (X86Platform, {}, "console=ttyS0 panic=-1 pci=off"),
        (Arm64Platform, {}, "console=ttyAMA0 panic=-1"),
        (Arm64Platform, {"uart": "16550"}, "console=ttyS0 panic=-1"),
        (Arm64Platform, {"console": "none", "hvc": ["stdio"]}, "console=hvc0 panic=-1"),
        (X86Platform, {"cmdline": "mine"}, "mine"),
        (X86Platform, {"cmdline": ""}, ""),
    ],
)
def test_cmdline_when_made_has_the_users_words_or_what_the_architecture_needs(
    platform: type[X86Platform] | type[Arm64Platform], keys: dict[str, object], words: str
) -> None:
    config = Config(kernel="x", **keys)

    assert kernel_cmdline(config, platform(config, None), False) == words  # type: ignore[arg-type]


def test_cmdline_when_a_command_is_to_be_run_is_quiet_and_names_both_ways_to_it() -> None:
    config = Config(kernel="x", exec="true")

    words = kernel_cmdline(config, Arm64Platform(config, None), True).split()  # type: ignore[arg-type]

    assert words[:3] == ["console=ttyAMA0", "panic=-1", "quiet"]
    assert words[-1] == "pyvmm.exec=/dev/virtio-ports/pyvmm.exec|/dev/ttyAMA1"


@pytest.mark.parametrize(
    ("platform", "keys", "line"),
    [
        (X86Platform, {}, "console=ttyS0 panic=-1 pci=off root=/dev/vda -- single"),
        (Arm64Platform, {}, "console=ttyAMA0 panic=-1 root=/dev/vda -- single"),
        (Arm64Platform, {"cmdline": "mine"}, "mine"),
    ],
)
def test_cmdline_when_a_unified_kernel_image_has_one_is_behind_the_default(
    platform: type[X86Platform] | type[Arm64Platform], keys: dict[str, object], line: str
) -> None:
    config = Config(kernel="x", **keys)
    own = "root=/dev/vda -- single\n"

    assert kernel_cmdline(config, platform(config, None), False, own=own) == line  # type: ignore[arg-type]


def test_cmdline_when_a_command_is_to_be_run_is_told_before_inits_arguments() -> None:
    config = Config(kernel="x", cmdline='quiet note="a -- b" -- single')

    line = kernel_cmdline(config, X86Platform(config, None), True, True)  # type: ignore[arg-type]

    channel = "rdinit=/.pyvmm/init pyvmm.exec=/dev/virtio-ports/pyvmm.exec|/dev/ttyS1"
    assert line == f'quiet note="a -- b" {channel} pyvmm.shell -- single'


def test_load_image_when_an_initrd_is_larger_than_memory_says_so_without_reading(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(bzimage())
    (tmp_path / "initrd").touch()
    os.truncate(tmp_path / "initrd", 5 << 30)
    config = Config(kernel=str(tmp_path / "kernel"), initrd=str(tmp_path / "initrd"), memory="64M")
    platform = X86Platform(config, None)

    with (
        ram(64 * MIB) as memory,
        pytest.raises(ImageError, match="has 5G; give the guest more memory than that, it has 64M"),
    ):
        load_image(config, memory, platform, None, False, False)
