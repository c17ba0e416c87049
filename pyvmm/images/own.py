"""Guests whose kernel is not Debian's package: this host's own, a kernel tree's, any image with its modules.

Their user space is the default guest's: our init, busybox, the modules of virtio devices. What a kernel has
neither as a module nor built in is left out and named. The initramfs is cached under a hash of what it is
made of, for the modules their paths, sizes and times.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from pyvmm.arch import native
from pyvmm.errors import ConfigError
from pyvmm.images import cache, default
from pyvmm.images.busybox import static_busybox
from pyvmm.images.guest_files import GuestFiles
from pyvmm.images.host_kernel import host_kernel
from pyvmm.images.initramfs import build, init_program, on_demand
from pyvmm.images.kernel_tree import built_image
from pyvmm.images.modules import MissingModuleError, ModuleTree
from pyvmm.images.release import kernel_release

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm.images.modules import Module

#: How many such initramfs are kept: a kernel that is being developed has a new one with each build.
_KEPT = 8


def host_guest() -> GuestFiles:
    """This host's own kernel. Raises KernelFileError, ModuleError, CacheError, InitramfsError."""
    found = host_kernel()
    return _guest(found.image, found.modules)


def tree_guest(tree: str) -> GuestFiles:
    """The kernel that was built in directory *tree*, with the modules built there.

    Raises KernelFileError, ModuleError, CacheError, InitramfsError, ImageError.
    """
    image = built_image(Path(tree))
    return _guest(image, ModuleTree(Path(tree), kernel_release(image)))


def image_guest(image: str, modules: str) -> GuestFiles:
    """The kernel *image*, with those of *modules*, a directory (see ``ModuleTree``), that are its own.

    Raises KernelFileError, ModuleError, CacheError, InitramfsError, ImageError; ConfigError for a directory
    as an image.
    """
    if os.path.isdir(image):
        raise ConfigError(
            f"modules: the kernel {image} is a directory, whose modules are those built in it; for others "
            "give the kernel's image"
        )
    return _guest(Path(image), ModuleTree(Path(modules), kernel_release(Path(image))))


def _guest(image: Path, tree: ModuleTree) -> GuestFiles:
    busybox = static_busybox()
    wanted = (default.POWER_BUTTON[native.DEBIAN], *default.DEFAULT_MODULES)
    init = init_program(native.DEBIAN)

    def make(place: Path) -> None:
        modules = _load_order(tree, (*default.PVPANIC["amd64"], *wanted))  # a kernel may do without
        later = {alias: _load_order(tree, names) for alias, names in default.ON_DEMAND.items()}
        if busybox is None:  # there is no shell to load them when they are needed
            for order in later.values():
                modules |= order
            later = {}
        files = on_demand({alias: list(order.values()) for alias, order in later.items()}, default.MODPROBE)
        place.mkdir()
        (place / "missing").write_text(
            " ".join(name for name in wanted if not (name in modules or tree.is_builtin(name)))
        )
        (place / "initrd").write_bytes(build(init, busybox, modules=list(modules.values()), files=files))

    key = _key(tree, init, busybox, wanted)
    entry = cache.entry(f"initramfs/own-{native.DEBIAN}-{tree.release}-{key}", make)
    with contextlib.suppress(OSError):
        os.utime(entry)  # the last used are kept
    cache.prune("initramfs/own-*", _KEPT)
    missing = (entry / "missing").read_text().split()
    return GuestFiles(
        str(image), str(entry / "initrd"), tree.release, missing, has_programs=busybox is not None
    )


def _load_order(tree: ModuleTree, names: Iterable[str]) -> dict[str, Module]:
    """Those of *names* that the kernel has, after what they need; without those that need one it has not."""
    found: dict[str, Module] = {}
    for name in names:
        with contextlib.suppress(MissingModuleError):
            found |= {module.name: module for module in tree.load_order([name]) if module.name not in found}
    return found


def _key(tree: ModuleTree, init: bytes, busybox: bytes | None, wanted: Iterable[str]) -> str:
    parts: list[object] = [default.LAYOUT, tree.release, *wanted, default.ON_DEMAND]
    for path in tree.inputs():
        with contextlib.suppress(OSError):
            status = os.stat(path)
            parts.append((str(path), status.st_size, status.st_mtime_ns))
    digest = hashlib.sha256(repr(parts).encode())
    digest.update(init)
    digest.update(busybox or b"none")
    return digest.hexdigest()[:16]
