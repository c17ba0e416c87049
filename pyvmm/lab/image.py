"""The emulated host's kernel and initramfs: Debian's full kernel, our init, busybox, the scripts.

On x86-64 QEMU's PVH loader starts the ELF file inside the bzImage: under emulation the kernel's own
decompressor would take longer than the rest of the boot.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePath

from pyvmm.images import cache, cpio, debian, initramfs
from pyvmm.lab import inside, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.images.modules import ModuleTree
    from pyvmm.lab.architecture import Architecture

_BUSYBOX_PACKAGE = "busybox-static"


@dataclass(frozen=True, slots=True)
class Image:
    """What QEMU boots: *kernel*, *initrd*; and *system*, the programs where this machine's do not run."""

    kernel: Path
    initrd: Path
    system: Path | None = None


def digest(arch: Architecture) -> str:
    """A hash that changes when this code would make another initramfs from the same packages."""
    parts = [inside.SETUP, view_script(arch), initramfs.MODPROBE, _channels()]
    parts += [*inside.EARLY_MODULES, *arch.kvm, *map(str, inside.LAZY_MODULES.items())]
    programs = [initramfs.init_program(arch.debian)]
    programs += [initramfs.linux_program(path, arch.debian) for path in arch.helpers]
    return hashlib.sha256(b"\n".join(["\n".join(parts).encode(), *programs])).hexdigest()[:16]


def view_script(arch: Architecture) -> str:
    """The script that makes a command's root directory."""
    return inside.VIEW if arch.native_programs else inside.FOREIGN_VIEW


def fetched(arch: Architecture) -> bool:
    """Whether the packages are in the cache, so that no network is needed."""
    wanted = {f"{arch.debian}/{name}" for name in (arch.kernel, _BUSYBOX_PACKAGE)}
    return wanted <= set(debian.fetched()) and (arch.native_programs or system.fetched(arch.debian))


def prepare(arch: Architecture, say: Callable[[str], None] | None = None) -> Image:
    """The image, from the cache or fetched and built; *say* is called with a text before each slow step.

    Raises PackageError, CacheError, InitramfsError or ModuleError.
    """
    kernel = debian.package(arch.kernel, arch.debian, say)
    busybox = debian.package(_BUSYBOX_PACKAGE, arch.debian, say)
    source = initramfs.kernel_image(kernel)
    release = source.name.partition("-")[2]
    key = hashlib.sha256(f"{kernel.version} {busybox.version} {digest(arch)}".encode()).hexdigest()[:16]

    def unpack(place: Path) -> None:
        from pyvmm.boot.unpack import unpack_bzimage
        from pyvmm.boot.x86.bzimage import BzImage

        place.write_bytes(unpack_bzimage(BzImage(source.read_bytes()).payload))

    def build(place: Path) -> None:
        from pyvmm.images.modules import ModuleTree

        modules = ModuleTree(kernel.root, release)
        place.write_bytes(_initramfs(arch, modules, initramfs.busybox_program(busybox)))

    version = kernel.version.replace(":", "%3a")
    if arch.debian == "amd64":
        source = cache.entry(f"lab/vmlinux-{release}-{version}", unpack)
    programs = None if arch.native_programs else system.prepare(arch.debian, say)
    return Image(source, cache.entry(f"lab/initramfs-{release}-{key}.cpio", build), programs)


def _channels() -> str:
    """The ports that init serves, a line each."""
    return "".join(f"/dev/virtio-ports/{inside.PORT}{n}\n" for n in range(inside.PORTS))


def _initramfs(arch: Architecture, tree: ModuleTree, busybox: bytes) -> bytes:
    early = tree.load_order(list(inside.EARLY_MODULES))
    loaded = {module.name for module in early}
    kvm = [module for module in tree.load_order(list(arch.kvm)) if module.name not in loaded]
    lazy = {alias: tree.load_order([name]) for alias, name in inside.LAZY_MODULES.items()}
    files = [
        cpio.file("etc/hostname", b"pyvmm-lab\n"),
        cpio.file("etc/pyvmm/channels", _channels().encode()),
        cpio.file("etc/pyvmm/kvm", initramfs.paths_of(kvm)),
        *(cpio.file(module.path, module.data) for module in kvm),
        *initramfs.on_demand(lazy, "etc/pyvmm/modprobe"),
        cpio.file("etc/pyvmm/setup", inside.SETUP.encode()),
        cpio.file("etc/pyvmm/view", view_script(arch).encode()),
        *(
            cpio.file(
                f"etc/pyvmm/helpers/{PurePath(path).name}", initramfs.linux_program(path, arch.debian), 0o755
            )
            for path in arch.helpers
        ),
    ]
    return initramfs.build(initramfs.init_program(arch.debian), busybox, modules=early, files=files)
