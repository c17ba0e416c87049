"""This host's own kernel: where distributions put its image and its modules.

The image of the running release is preferred; after an update that was not followed by a reboot its files
may be gone, and the newest release that has modules is taken.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pyvmm.images.modules import ModuleError, ModuleTree
from pyvmm.images.release import ForbiddenKernelError, KernelFileError, kernel_release

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: The image of release {}: Fedora, openSUSE and Arch; Debian, Ubuntu and most others; openSUSE on arm64;
#: Gentoo; systemd's kernel-install.
_OF_RELEASE = (
    "usr/lib/modules/{}/vmlinuz",
    "lib/modules/{}/vmlinuz",
    "usr/lib/modules/{}/Image",
    "boot/vmlinuz-{}",
    "boot/vmlinux-{}",
    "boot/Image-{}",
    "boot/kernel-{}",
    "boot/*/{}/linux",
)
#: Names without a release: NixOS; Arch (-linux) and Alpine (-lts, -virt); others.
_OF_ANY = (
    "run/booted-system/kernel",
    "run/current-system/kernel",
    "usr/lib/modules/*/vmlinuz",
    "boot/vmlinuz-*",
    "boot/vmlinuz",
    "boot/Image",
)
#: What holds lib/modules: everywhere, and on NixOS.
_ROOTS = (".", "run/booted-system/kernel-modules", "run/current-system/kernel-modules")


class HostKernel:
    """A kernel of this host: the path of its *image*, its *release*, its *modules*."""

    __slots__ = ("image", "modules", "release")

    def __init__(self, image: Path, release: str, modules: ModuleTree) -> None:
        self.image = image
        self.release = release
        self.modules = modules


def host_kernel(root: Path = Path("/"), running: str | None = None) -> HostKernel:
    """The kernel that this host runs, else its newest one.

    :param root: the host's root directory
    :param running: the release that runs; by default what ``uname -r`` says

    Raises KernelFileError when there is none, ForbiddenKernelError when this user may not read it,
    ModuleError when its modules are missing.
    """
    running = running or os.uname().release
    problem: KernelFileError | ModuleError | None = None
    for image in _found(root, [pattern.format(running) for pattern in _OF_RELEASE]):
        try:
            if kernel_release(image) == running:
                return HostKernel(image, running, _modules(root, running))
        except (KernelFileError, ModuleError) as error:
            problem = problem or error
    kernels = []
    for image in _found(root, _OF_ANY):
        try:
            release = kernel_release(image)
            kernels.append(
                (release == running, _newness(release), HostKernel(image, release, _modules(root, release)))
            )
        except (KernelFileError, ModuleError) as error:
            problem = problem or error
    if isinstance(problem, ForbiddenKernelError) and not any(kernel[0] for kernel in kernels):
        raise problem
    if kernels:
        return max(kernels, key=lambda kernel: kernel[:2])[2]
    if problem is None and (root / "boot").is_dir() and not os.access(root / "boot", os.R_OK | os.X_OK):
        raise ForbiddenKernelError(
            f"this user may not look into {root / 'boot'}, where this host's kernel is; copy it with "
            f"`sudo install -m 644 {root / 'boot'}/vmlinuz-{running} .` and give "
            f"--kernel vmlinuz-{running} --modules {root / 'lib/modules'}"
        )
    raise problem or KernelFileError(
        f"this host has no image of its kernel {running}: none in {root / 'boot'}, none in "
        f"{root / 'lib/modules'}; it may be a container or a virtual machine that is started from outside: "
        "give a kernel with --kernel FILE --modules DIR"
    )


def _found(root: Path, patterns: list[str] | tuple[str, ...]) -> Iterator[Path]:
    seen = set()
    for pattern in patterns:
        for path in sorted(root.glob(pattern)) if "*" in pattern else [root / pattern]:
            # One that this user may not look at is found, too: the error says what to do.
            if os.path.lexists(path) and (place := os.path.realpath(path)) not in seen:
                seen.add(place)
                yield path


def _modules(root: Path, release: str) -> ModuleTree:
    for base in _ROOTS:
        if any((root / base / place / release).is_dir() for place in ("lib/modules", "usr/lib/modules")):
            return ModuleTree(root / base, release)
    raise ModuleError(
        f"this host has an image of kernel {release} and no modules of it in {root / 'lib/modules'}; restart "
        "the host if its kernel was updated, or give --kernel FILE --modules DIR"
    )


def _newness(release: str) -> list[tuple[int, str]]:
    """Orders releases by the numbers in them."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"[.+~-]", release)]
