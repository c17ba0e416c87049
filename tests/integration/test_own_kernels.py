"""Kernels of the user's own with the default guest's user space: a kernel tree's, and this host's.

The minimal kernel lies where a build, or a distribution, would have put it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.arch import native
from pyvmm.images.host_kernel import HostKernel, host_kernel
from pyvmm.images.kernel import TARGETS, minimal_kernel
from pyvmm.images.release import KernelFileError, kernel_release
from tests.support.command import ROOT
from tests.support.linux import LIMIT, QUIET
from tests.support.require import INSIDE_LAB

pytestmark = [pytest.mark.hw, pytest.mark.timeout(LIMIT + 30)]


@pytest.fixture(scope="module")
def kernel() -> Path:
    return minimal_kernel()


def boots(kernel: str, directory: Path) -> str:
    """What the kernel of ``--kernel`` says it is, pyvmm called in *directory*."""
    way = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pyvmm.cli.main import entry; entry()"
    options = ["--kernel", kernel, "--cmdline", QUIET, "--timeout", str(LIMIT), "--exec", "uname -r"]

    done = subprocess.run(
        [sys.executable, "-c", way, "run", *options],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT + 20,
        check=False,
    )

    assert done.returncode == 0, done
    return done.stdout.decode().strip()


def lists(folder: Path) -> None:
    """What a build, and depmod, write of a kernel that has everything built in."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("modules.order", "modules.builtin", "modules.dep"):
        (folder / name).touch()


def test_kernel_of_the_tree_that_is_the_working_directory_boots(tmp_path: Path, kernel: Path) -> None:
    release = kernel_release(kernel)
    # What `make O=` leaves, as far as it matters here.
    image = tmp_path / TARGETS[native.DEBIAN].image
    image.parent.mkdir(parents=True)
    image.symlink_to(kernel)
    lists(tmp_path)
    (tmp_path / "include/config").mkdir(parents=True)
    (tmp_path / "include/config/kernel.release").write_text(f"{release}\n")

    assert boots(".", tmp_path) == release


def test_kernel_of_this_host_boots(tmp_path: Path, kernel: Path) -> None:
    found = this_hosts()
    if found is not None:
        assert boots("host", tmp_path) == found.release
        return
    if not INSIDE_LAB:
        pytest.skip("this host, a container perhaps, has no image of its kernel")
    # An emulated host has its kernel from outside, and a file system that is thrown away.
    release = kernel_release(kernel)
    image, modules = Path("/boot", f"vmlinuz-{release}"), Path("/lib/modules", release)
    image.parent.mkdir(exist_ok=True)
    image.symlink_to(kernel)
    lists(modules)
    try:
        assert boots("host", tmp_path) == release
    finally:
        image.unlink()
        for path in [*modules.iterdir()]:
            path.unlink()
        modules.rmdir()


def this_hosts() -> HostKernel | None:
    """This host's kernel; None where it has no image of it that this user may read."""
    try:
        return host_kernel()
    except KernelFileError:
        return None
