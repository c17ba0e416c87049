"""The host's own kernel is found where each distribution puts it, or one sentence says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.images.host_kernel import host_kernel
from pyvmm.images.modules import ModuleError
from pyvmm.images.release import KernelFileError
from tests.support.host_layouts import RUNNING, put_kernel, put_modules

OLDER = "6.8.0-9-generic"
NEWER = "6.8.0-100-generic"
#: Where the image and the modules of the running kernel are.
LAYOUTS = {
    "debian, ubuntu": (f"boot/vmlinuz-{RUNNING}", f"usr/lib/modules/{RUNNING}"),
    "fedora": (f"lib/modules/{RUNNING}/vmlinuz", f"lib/modules/{RUNNING}"),
    "arch": ("boot/vmlinuz-linux", f"usr/lib/modules/{RUNNING}"),
    "alpine": ("boot/vmlinuz-virt", f"lib/modules/{RUNNING}"),
    "gentoo": (f"boot/kernel-{RUNNING}", f"lib/modules/{RUNNING}"),
    "kernel-install": (f"boot/0123456789abcdef/{RUNNING}/linux", f"usr/lib/modules/{RUNNING}"),
    "nixos": ("run/booted-system/kernel", f"run/booted-system/kernel-modules/lib/modules/{RUNNING}"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kernel_that_runs_is_found_among_others(tmp_path: Path, layout: str) -> None:
    image, modules = LAYOUTS[layout]
    put_kernel(tmp_path / image)
    put_modules(tmp_path / modules, {"virtio": []})
    for other in (OLDER, NEWER):
        put_kernel(tmp_path / f"boot/vmlinuz-{other}", other)
        put_modules(tmp_path / "lib/modules" / other, {"virtio": []})

    found = host_kernel(tmp_path, RUNNING)

    assert (found.image, found.release) == (tmp_path / image, RUNNING)
    assert found.modules.release == RUNNING
    assert found.modules.names == ["virtio"]


def test_kernel_of_nixos_is_a_link_and_its_modules_are_linked_folders(tmp_path: Path) -> None:
    store = tmp_path / "nix/store/linux"
    put_kernel(store / "bzImage")
    put_modules(store / f"lib/modules/{RUNNING}", {"virtio": []})
    system = tmp_path / "run/booted-system"
    merged = system / f"kernel-modules/lib/modules/{RUNNING}"
    merged.mkdir(parents=True)
    (system / "kernel").symlink_to(store / "bzImage")
    (merged / "kernel").symlink_to(store / f"lib/modules/{RUNNING}/kernel")
    (merged / "modules.dep").write_text("kernel/drivers/virtio.ko:\n")

    found = host_kernel(tmp_path, RUNNING)

    assert [module.path for module in found.modules.load_order(["virtio"])] == [
        f"lib/modules/{RUNNING}/kernel/drivers/virtio.ko"
    ]


def test_kernel_that_was_updated_since_the_boot_is_the_newest_that_has_modules(tmp_path: Path) -> None:
    for release in (OLDER, NEWER):
        put_kernel(tmp_path / f"boot/vmlinuz-{release}", release)
        put_modules(tmp_path / "lib/modules" / release, {"virtio": []})
    put_kernel(tmp_path / "boot/vmlinuz-9.0", "9.0")

    assert host_kernel(tmp_path, RUNNING).release == NEWER


def test_image_under_the_running_releases_name_that_is_another_kernel_is_not_taken(tmp_path: Path) -> None:
    put_kernel(tmp_path / f"boot/vmlinuz-{RUNNING}", OLDER)
    put_modules(tmp_path / "lib/modules" / OLDER, {"virtio": []})

    assert host_kernel(tmp_path, RUNNING).release == OLDER


def test_host_without_a_kernel_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        KernelFileError, match=f"no image of its kernel {RUNNING}.*--kernel FILE --modules DIR"
    ):
        host_kernel(tmp_path, RUNNING)


def test_host_without_modules_says_so(tmp_path: Path) -> None:
    put_kernel(tmp_path / f"boot/vmlinuz-{RUNNING}")

    with pytest.raises(ModuleError, match=f"image of kernel {RUNNING} and no modules of it"):
        host_kernel(tmp_path, RUNNING)


@pytest.mark.parametrize(
    ("closed", "words"),
    [
        (f"boot/vmlinuz-{RUNNING}", f"may not read the kernel {{root}}/boot/vmlinuz-{RUNNING}"),
        ("boot", "may not look into {root}/boot"),
    ],
)
def test_kernel_that_only_root_may_read_is_told_with_the_command_that_helps(
    tmp_path: Path, closed: str, words: str
) -> None:
    put_kernel(tmp_path / f"boot/vmlinuz-{RUNNING}")
    put_modules(tmp_path / "lib/modules" / RUNNING, {"virtio": []})
    (tmp_path / closed).chmod(0)
    script = f"from pyvmm.images.host_kernel import *; host_kernel(Path({str(tmp_path)!r}), {RUNNING!r})"
    command = [sys.executable, "-c", script]
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("setpriv is not here (Debian: util-linux)")
        command = ["setpriv", "--bounding-set=-all", *command]  # root's privileges override modes

    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (tmp_path / closed).chmod(0o755)

    assert "ForbiddenKernelError" in done.stderr, done
    assert words.format(root=tmp_path) in done.stderr
    assert "`sudo " in done.stderr
