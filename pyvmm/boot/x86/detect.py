"""The format of a kernel image, and a function that loads any of them."""

from __future__ import annotations

from pyvmm.boot.elf import MAGIC as ELF_MAGIC
from pyvmm.boot.errors import DoesNotFitError, ImageError, NotAKernelError
from pyvmm.boot.pe import MAGIC as PE_MAGIC
from pyvmm.boot.uki import describe
from pyvmm.boot.x86 import zeropage
from pyvmm.boot.x86.bzimage import BzImage, load_bzimage
from pyvmm.boot.x86.multiboot import find_header as find_multiboot
from pyvmm.boot.x86.multiboot import load_multiboot
from pyvmm.boot.x86.multiboot2 import find_header as find_multiboot2
from pyvmm.boot.x86.multiboot2 import load_multiboot2
from pyvmm.boot.x86.vmlinux import load_elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.entry import BootEntry
    from pyvmm.boot.x86.params import BootParams
    from pyvmm.memory.guest import GuestMemory

BZIMAGE = "bzimage"
ELF = "elf"
MULTIBOOT = "multiboot"
MULTIBOOT2 = "multiboot2"

#: Accepted as *how* by ``load``.
METHODS = ("auto", BZIMAGE, ELF, "pvh", "linux64", MULTIBOOT, MULTIBOOT2)

_UNPACK = "unpack it first, if a kernel is inside"
#: (offset, magic bytes, what the file is, what to do)
_OTHERS = (
    (0x38, b"ARM\x64", "an ARM64 kernel", "give one built for x86-64"),
    (0, b"\x1f\x8b", "gzip-compressed", _UNPACK),
    (0, b"\xfd7zXZ", "xz-compressed", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard-compressed", _UNPACK),
    (0, b"BZh", "bzip2-compressed", _UNPACK),
    (0, b"\x04\x22\x4d\x18", "LZ4-compressed", _UNPACK),
    (0, b"\x02\x21\x4c\x18", "LZ4-compressed", _UNPACK),
    (0, b"07070", "an initramfs (cpio)", "give it as the initrd, beside a kernel"),
    (0, b"!<arch>", "an archive or a Debian package", _UNPACK),
    (0, b"\xed\xab\xee\xdb", "an RPM package", _UNPACK),
    (0, b"PK\x03\x04", "a ZIP archive", _UNPACK),
    (0, b"QFI\xfb", "a qcow2 disk image", "give the kernel on its own"),
    (0x8001, b"CD001", "a CD image", "give the kernel on it (vmlinuz)"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image", "give the kernel in it, as bzImage or ELF"),
    (0, b"#!", "a script", "give a kernel"),
    (0, b"\x55\xaa", "an option ROM, which a BIOS starts", "give a kernel"),
    (
        0x1FE,
        b"\x55\xaa",
        "a boot sector or disk image, which a BIOS starts",
        "give the kernel on it (vmlinuz)",
    ),
)


def detect(data: bytes | memoryview) -> str:
    """BZIMAGE, MULTIBOOT2, MULTIBOOT or ELF. Raises NotAKernelError, saying what it is instead.

    An ELF file with a multiboot header counts as multiboot, newest version first.
    """
    view = memoryview(data)
    if not view:
        raise NotAKernelError("the file is empty; give a kernel: a bzImage (vmlinuz) or an ELF file")
    boot_flag = bytes(view[zeropage.BOOT_FLAG : zeropage.BOOT_FLAG + 2])
    if boot_flag == b"\x55\xaa" and bytes(view[zeropage.HEADER : zeropage.HEADER + 4]) == b"HdrS":
        return BZIMAGE
    if find_multiboot2(view) is not None:
        return MULTIBOOT2
    if find_multiboot(view) is not None:
        return MULTIBOOT
    if bytes(view[:4]) == ELF_MAGIC:
        return ELF
    for offset, magic, what, remedy in _OTHERS:
        if bytes(view[offset : offset + len(magic)]) == magic:
            raise NotAKernelError(f"this is {what}, not a kernel this machine can start; {remedy}")
    if bytes(view[:2]) == PE_MAGIC:
        raise NotAKernelError(
            f"this is {describe(view)}, not a kernel this machine can start; give a Linux kernel with a "
            "boot header (vmlinuz) or a unified kernel image"
        )
    if not any(view[:4096]):
        raise NotAKernelError("the file begins with zeroes; it is no kernel, or its copy failed")
    raise NotAKernelError(
        f"the file begins with {bytes(view[:4]).hex()}, which no known kernel format does; "
        "give a bzImage (vmlinuz), an ELF file or a multiboot kernel"
    )


def load(
    memory: GuestMemory,
    data: bytes | memoryview,
    params: BootParams,
    how: str = "auto",
    elf: memoryview | None = None,
) -> BootEntry:
    """Load a kernel, its initrds and tables into *memory*; where CPU 0 starts.

    *how* is one of METHODS. With "auto" a bzImage is unpacked on the host, where that is
    possible (*elf*, if it was already), and its ELF file started; with BZIMAGE the kernel's own decompressor
    is started. Raises NotAKernelError for a file of no known format, ImageError for anything else that is
    wrong with it, DoesNotFitError; without the file's name.
    """
    kind = detect(data) if how == "auto" else how
    if kind == BZIMAGE:
        if how == BZIMAGE:
            return load_bzimage(memory, data, params)
        return _load_unpacked(memory, data, params, unpacked(data) if elf is None else elf)
    if kind == MULTIBOOT2:
        return load_multiboot2(memory, data, params)
    if kind == MULTIBOOT:
        return load_multiboot(memory, data, params)
    if kind in (ELF, "pvh", "linux64"):
        return load_elf(memory, data, params, how)
    raise ImageError(f"{how!r} is not a boot method; choose one of {', '.join(METHODS)}")


def unpacked(data: bytes | memoryview) -> memoryview | None:
    """The ELF file in a bzImage; None for another format, and for one that cannot be unpacked."""
    from pyvmm.boot.payload import PayloadError, unpack_cached

    try:
        return unpack_cached(BzImage(data).payload) if detect(data) == BZIMAGE else None
    except (PayloadError, ImageError):
        return None


def _load_unpacked(
    memory: GuestMemory, data: bytes | memoryview, params: BootParams, elf: memoryview | None
) -> BootEntry:
    header = BzImage(data)
    try:
        if elf is not None:
            return load_elf(memory, elf, params, header=header)
    except DoesNotFitError:
        raise
    except ImageError:
        pass  # its own decompressor may be able to
    return load_bzimage(memory, data, params)
