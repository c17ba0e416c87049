"""Hosts made by hand: kernels and modules where distributions put them, below a directory that is their /."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import zstandard

from pyvmm.arch import native
from pyvmm.images import debian
from pyvmm.images.default import DEFAULT_MODULES, KERNEL_PACKAGES, ON_DEMAND, POWER_BUTTON
from pyvmm.images.initramfs import kernel_image
from pyvmm.images.modules import ModuleTree
from tests.support.guest_files import module_file
from tests.support.images import bzimage

RUNNING = "6.8.0-41-generic"


def kernel_file(release: str) -> bytes:
    """A bzImage that names its release."""
    image = bytearray(bzimage())
    text = f"{release} (builder@host) #1 SMP\0".encode()
    struct.pack_into("<H", image, 0x20E, 0x300 - 0x200)
    image[0x300 : 0x300 + len(text)] = text
    return bytes(image)


def put_kernel(path: Path, release: str = RUNNING) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(kernel_file(release))
    return path


def put_modules(
    folder: Path,
    modules: Mapping[str, list[str]],
    suffix: str = ".ko",
    pack: Callable[[bytes], bytes] = bytes,
    builtin: tuple[str, ...] = (),
) -> Path:
    """Modules, each with those that it needs, in *folder* as ``make modules_install`` does it."""
    drivers = folder / "kernel/drivers"
    drivers.mkdir(parents=True)
    for name, depends in modules.items():
        (drivers / f"{name}{suffix}").write_bytes(pack(module_file(depends)))
    (folder / "modules.builtin").write_text("".join(f"kernel/drivers/{name}.ko\n" for name in builtin))
    return folder


#: What the default guest loads, at once and on demand.
LOADED = (
    POWER_BUTTON[native.DEBIAN],
    *DEFAULT_MODULES,
    *(name for names in ON_DEMAND.values() for name in names),
)


def put_stock_modules(folder: Path, names: Sequence[str] = LOADED) -> str:
    """Modules of Debian's stock kernel with all they need, in *folder* as Ubuntu has them: zstd; its image.

    Raises PackageError where the package can be had neither from the cache nor from a mirror.
    """
    kernel = debian.package(KERNEL_PACKAGES[native.DEBIAN], native.DEBIAN)
    image = kernel_image(kernel)
    release = image.name.partition("-")[2]
    tree = ModuleTree(kernel.root, release)
    for module in tree.load_order(list(names)):
        path = folder / release / module.path.partition(f"{release}/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.name}.zst").write_bytes(zstandard.ZstdCompressor().compress(module.data))
    # A pattern that looks through the package's thousands of files takes an emulated host a minute.
    places = [
        kernel.root / above / release / "modules.builtin" for above in ("lib/modules", "usr/lib/modules")
    ]
    (listed,) = filter(Path.is_file, places)
    shutil.copy(listed, folder / release)
    return str(image)
