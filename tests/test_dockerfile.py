"""The Dockerfile, built by buildah, which needs neither a daemon nor control groups."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.virtio.fs import virtiofsd as fs

ROOT = Path(__file__).resolve().parents[1]
BASE = "debian:bookworm-slim"
LIMIT = 480

Buildah = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [
    pytest.mark.net,
    pytest.mark.timeout(LIMIT + 60),
    pytest.mark.skipif(shutil.which("buildah") is None, reason="no buildah to build the Dockerfile with"),
]


def buildah(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["buildah", "--storage-driver", "vfs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A container of an image built from the files that git has."""
    if buildah("inspect", "--type", "image", BASE).returncode and buildah("pull", BASE).returncode:
        pytest.skip(f"buildah cannot fetch {BASE} here")
    folder = tmp_path_factory.mktemp("context")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    build = ("bud", "--pull=never", "--network", "host", "--isolation", "chroot", "-t", "pyvmm-test")
    done = buildah(*build, str(folder))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    name = buildah("from", "--pull=never", "localhost/pyvmm-test").stdout.strip()
    yield name
    buildah("rm", name)
    buildah("rmi", "localhost/pyvmm-test")


def run(container: str, *command: str) -> subprocess.CompletedProcess[str]:
    # This kind of isolation shows the container the host's /dev.
    return buildah("run", "--isolation", "chroot", container, "--", *command)


def test_the_image_starts_pyvmm_run_by_itself_and_has_its_guest(container: str) -> None:
    done = buildah("inspect", "--format", "{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}}", container)
    assert done.stdout.strip() == "[pyvmm] [run]"
    done = run(container, "sh", "-c", "find $PYVMM_CACHE -name 'vmlinuz-*' && test ! -e /src")
    assert done.returncode == 0
    assert "vmlinuz-" in done.stdout


def test_the_image_has_the_programs_that_pyvmm_starts(container: str) -> None:
    found = run(container, "sh", "-c", "command -v passt qemu-nbd qemu-img qemu-system-x86_64")
    assert found.returncode == 0, found.stdout
    assert [name for name in fs.PROGRAMS if run(container, "test", "-x", name).returncode == 0]


@pytest.mark.kvm
def test_with_a_kvm_its_doctor_says_that_a_guest_can_run(container: str) -> None:
    done = run(container, "pyvmm", "doctor")
    assert "A guest can run on this host." in done.stdout
