"""The arm64 kernel image: its header, what it may be packed in, and where it goes.

Sources: Linux Documentation/arm64/booting.rst, section 4 (the header of an Image, text_offset,
image_size, flags); drivers/firmware/efi/libstub/zboot-header.S for an EFI zboot image, which is
a PE file around a compressed Image. Image.gz and the like are the Image in a plain compressed file.
"""

from __future__ import annotations

import struct

from pyvmm.boot.errors import DoesNotFitError, ImageError, NotAKernelError
from pyvmm.boot.payload import PayloadError, unpack_cached
from pyvmm.boot.pe import MAGIC as PE_MAGIC
from pyvmm.boot.uki import describe
from pyvmm.boot.unpack import MAX_UNPACKED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory.guest import GuestMemory

MAGIC = b"ARM\x64"
MAGIC_AT = 56
#: code0, code1, text_offset, image_size, flags
_HEADER = struct.Struct("<IIQQQ")
HEADER_SIZE = 64
FLAG_BIG_ENDIAN = 1 << 0
#: The image lies at text_offset from an address with this alignment.
ALIGN = 2 << 20
#: The offset of kernels before 3.17, whose header has no size.
_OLD_TEXT_OFFSET = 0x80000

_ZBOOT_MAGIC = b"zimg"
#: payload offset, payload size, reserved, name of the compression
_ZBOOT = struct.Struct("<II8x32s")
_ZBOOT_AT = 8
#: What an Image may be compressed by, with the names of an EFI zboot header.
_FORMATS = ("gzip", "zstd", "xzkern", "lzma")

#: The first bytes of other files.
_OTHERS = (
    (b"\x7fELF", "an ELF file; a kernel's own vmlinux has no addresses of this machine: give its Image"),
    (b"\x27\x05\x19\x56", "a U-Boot image (uImage); give the Image in it"),
    (b"\xd0\x0d\xfe\xed", "a device tree or a FIT image; give the Image in it, or the tree with --dtb"),
    (b"07070", "an initramfs (cpio); give it as the initrd, beside a kernel"),
    (b"BZh", "bzip2-compressed; unpack it first, if a kernel is inside"),
    (b"\x04\x22\x4d\x18", "LZ4-compressed; unpack it first, if a kernel is inside"),
    (b"\x02\x21\x4c\x18", "LZ4-compressed; unpack it first, if a kernel is inside"),
    (b"!<arch>", "an archive or a Debian package; unpack it first"),
    (b"#!", "a script; give a kernel"),
)


class Arm64Image:
    """An Image, unpacked: *data*, and its header's fields. Raises NotAKernelError, ImageError."""

    __slots__ = ("data", "size", "text_offset")

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)
        if not is_image(self.data):
            raise NotAKernelError(_what(self.data))
        _, _, self.text_offset, size, flags = _HEADER.unpack_from(self.data)
        if flags & FLAG_BIG_ENDIAN:
            raise ImageError(
                "this arm64 kernel is big-endian, which this machine is not; give a little-endian one"
            )
        if not size:
            self.text_offset, size = _OLD_TEXT_OFFSET, len(self.data)
        if size > MAX_UNPACKED or self.text_offset > MAX_UNPACKED:
            raise ImageError(
                f"the kernel's header says {size} bytes at offset {self.text_offset:#x}; the file is broken"
            )
        #: Bytes from its first one on that the kernel uses before it knows its memory map.
        self.size = max(size, len(self.data))

    def load(self, memory: GuestMemory) -> tuple[int, int]:
        """Write it to the start of RAM; ``(entry, end)``, *end* being free. Raises DoesNotFitError."""
        spans = memory.ram_spans()
        start, end = spans[0]
        base = -(-start // ALIGN) * ALIGN + self.text_offset
        if base + self.size > end:
            raise DoesNotFitError(
                f"the kernel takes {self.size} bytes at {base:#x}, beyond the end of the guest's memory at "
                f"{end:#x}; give the guest more memory"
            )
        memory.write(base, self.data)
        return base, base + self.size


def is_image(data: bytes | memoryview) -> bool:
    """Whether the bytes are an unpacked Image."""
    return len(data) >= HEADER_SIZE and bytes(data[MAGIC_AT : MAGIC_AT + 4]) == MAGIC


def unpack(data: bytes | memoryview) -> memoryview:
    """The Image in a kernel file: the file itself, or what is compressed in it, cached for the next boot.

    Raises NotAKernelError for a file that holds none, ImageError for one that does not unpack.
    """
    view = memoryview(data)
    if bytes(view[:2]) == b"MZ" and bytes(view[4:8]) == _ZBOOT_MAGIC:
        view, name = _zboot_payload(view)
    elif bytes(view[:2]) == b"\x1f\x8b":
        name = "gzip"
    elif bytes(view[:4]) == b"\x28\xb5\x2f\xfd":
        name = "zstd"
    elif bytes(view[:6]) == b"\xfd7zXZ\0":
        name = "xzkern"
    else:
        return view
    if name not in _FORMATS:
        raise ImageError(
            f"the kernel in this EFI image is compressed by {name!r}, which pyvmm does not unpack; give one "
            f"compressed by {', '.join(_FORMATS)}, or the Image itself"
        )
    try:
        return unpack_cached(view, format=name)
    except PayloadError as error:
        raise ImageError(f"the kernel in this file cannot be unpacked: {error}") from None


def _zboot_payload(view: memoryview) -> tuple[memoryview, str]:
    if len(view) < HEADER_SIZE:
        raise ImageError(
            f"the EFI zboot header needs {HEADER_SIZE} bytes, the file has {len(view)}; it is cut short"
        )
    offset, size, name = _ZBOOT.unpack_from(view, _ZBOOT_AT)
    if not size or offset + size > len(view):
        raise ImageError(
            f"the EFI zboot image's payload of {size} bytes at {offset:#x} does not lie in the file of "
            f"{len(view)} bytes; it is cut short or broken"
        )
    text = name.partition(b"\0")[0].decode("ascii", "replace")
    return view[offset : offset + size], "zstd" if text.startswith("zstd") else text


def _what(view: memoryview) -> str:
    if not view:
        return "the file is empty; give a kernel: an arm64 Image, also compressed or as an EFI zboot image"
    for magic, what in _OTHERS:
        if bytes(view[: len(magic)]) == magic:
            return f"this is {what}"
    if bytes(view[0x202:0x206]) == b"HdrS":
        return "this is a kernel for x86 (bzImage); give one built for arm64"
    if bytes(view[:2]) == PE_MAGIC:
        return f"this is {describe(view)} without an arm64 kernel's header; give a kernel's Image"
    if not any(view[:4096]):
        return "the file begins with zeroes; it is no kernel, or its copy failed"
    return (
        f"the file begins with {bytes(view[:4]).hex()} and has no arm64 kernel's header; give an Image, also "
        "compressed or as an EFI zboot image"
    )
