"""The default guest: what ``pyvmm run`` boots when no kernel is named.

Debian's stock kernel (on amd64 the cloud kernel) with an initramfs made here; both are fetched or
built on first use and cached.
"""

from __future__ import annotations

import hashlib

from pyvmm.arch import native
from pyvmm.images import cache, debian
from pyvmm.images.guest_files import GuestFiles
from pyvmm.images.initramfs import build, busybox_program, init_program, kernel_image, on_demand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: The kernel package of the default guest, by architecture.
KERNEL_PACKAGES = {"amd64": "linux-image-cloud-amd64", "arm64": "linux-image-arm64"}
#: Modules of the default guest: for its power button, its panics and its virtio devices.
POWER_BUTTON = {"amd64": "button", "arm64": "gpio_keys"}
#: The driver by which the kernel tells of its panic. Debian's arm64 kernel has none.
PVPANIC = {"amd64": ("pvpanic_mmio",), "arm64": ()}
DEFAULT_MODULES = (
    "evdev",
    "virtio_mmio",
    "virtio_console",
    "virtio_net",
    "af_packet",
    "virtio_blk",
    "virtio_rng",
    "vmw_vsock_virtio_transport",
    "virtio_balloon",
    "virtiofs",
    "virtio_input",
)
#: Modules loaded on demand: a disk's file system, which the cloud kernel has built in.
ON_DEMAND = {"fs-ext4": ("crc32c_generic", "ext4")}
#: The program that the kernel runs to load a module.
MODPROBE = "bin/modprobe"
#: Part of the cache's key: increase it when ``initramfs.build`` changes its layout.
LAYOUT = 3


def default_guest(architecture: str = native.DEBIAN, say: Callable[[str], None] | None = None) -> GuestFiles:
    """The stock kernel and our initramfs, from the cache or fetched; *say* is called before each slow step.

    Raises PackageError, CacheError or InitramfsError.
    """
    kernel = debian.package(KERNEL_PACKAGES[architecture], architecture, say)
    busybox = debian.package("busybox-static", architecture, say)
    image = kernel_image(kernel)
    release = image.name.partition("-")[2]
    init = init_program(architecture)
    modules = (*PVPANIC[architecture], POWER_BUTTON[architecture], *DEFAULT_MODULES)
    parts = (str(LAYOUT), release, kernel.version, busybox.version, *modules, str(ON_DEMAND))
    key = hashlib.sha256("\n".join(parts).encode() + init).hexdigest()[:16]

    def make(place: Path) -> None:
        from pyvmm.images.modules import ModuleTree

        tree = ModuleTree(kernel.root, release)
        later = {alias: tree.load_order(list(names)) for alias, names in ON_DEMAND.items()}
        files = on_demand(later, MODPROBE)
        order = tree.load_order(list(modules))
        place.write_bytes(build(init, busybox_program(busybox), modules=order, files=files))

    initrd = cache.entry(f"initramfs/{architecture}-{release}-{key}.cpio", make)
    return GuestFiles(str(image), str(initrd), release)
