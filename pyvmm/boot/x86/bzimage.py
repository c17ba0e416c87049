"""bzImage: the compressed Linux kernel with its setup header, started by its own decompressor.

Documentation/arch/x86/boot.rst, section numbers as of Linux 6.12. The 16-bit setup code is
not run: the 64-bit entry is used where the kernel has one, else the 32-bit entry.
"""

from __future__ import annotations

import struct

from pyvmm.boot.errors import ImageError
from pyvmm.boot.ranges import check_range
from pyvmm.boot.x86 import lowmem, zeropage
from pyvmm.boot.x86.initrd import load_initrds
from pyvmm.boot.x86.params import write_cmdline
from pyvmm.host.printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.entry import BootEntry
    from pyvmm.boot.x86.params import BootParams
    from pyvmm.memory.guest import GuestMemory

XLF_KERNEL_64 = 1 << 0
XLF_CAN_BE_LOADED_ABOVE_4G = 1 << 1
#: The load address of a kernel whose header has none.
DEFAULT_LOAD = 0x100000
#: "64-bit Boot Protocol": the entry point's offset from the start of the loaded kernel.
ENTRY_64 = 0x200
_SECTOR = 512
#: Bytes shown of an image's version string.
_NAME_MAX = 60


class BzImage:
    """A bzImage's setup header, checked; field names as in ``struct setup_header``.

    *kernel*: the protected-mode code. *payload*: the compressed ELF file in it, empty where
    the protocol (before 2.08) does not tell. Raises ImageError, also for an image that is started by its
    16-bit setup code, such as iPXE's (.lkrn) or MEMDISK: that code calls a BIOS.
    """

    __slots__ = (
        "cmdline_size",
        "data",
        "init_size",
        "initrd_addr_max",
        "kernel",
        "payload",
        "pref_address",
        "relocatable",
        "version",
        "xloadflags",
    )

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)
        if len(self.data) < zeropage.SETUP_HEADER_END:
            raise _cut("setup header", zeropage.SETUP_HEADER_END, len(self.data))
        boot_flag, magic, self.version = (
            self._field("<H", zeropage.BOOT_FLAG),
            self._field("<I", zeropage.HEADER),
            self._field("<H", zeropage.VERSION),
        )
        if boot_flag != zeropage.BOOT_FLAG_MAGIC or magic != zeropage.HEADER_MAGIC:
            raise ImageError("this is not a bzImage; the magic number HdrS is not at its place")
        if self.version < 0x0206 or not self.data[zeropage.LOADFLAGS] & zeropage.LOADED_HIGH:
            protocol = f"{self.version >> 8}.{self.version & 0xFF:02}"
            raise ImageError(
                f"this kernel{self._name()} speaks boot protocol {protocol}; 2.06 and a bzImage are the "
                "least that is supported (Linux 2.6.22): what is older is started by its 16-bit setup code, "
                "which calls a BIOS, and this machine has none"
            )
        setup_sects = self.data[zeropage.SETUP_HEADER] or 4
        start = (setup_sects + 1) * _SECTOR
        size = self._field("<I", 0x1F4) * 16
        if not size or start >= len(self.data):
            raise _cut("real-mode part", start, len(self.data))
        # syssize is rounded up to a paragraph, and signing tools append to the file.
        if start + size - 15 > len(self.data):
            raise _cut("protected-mode code", start + size, len(self.data))
        self.kernel = self.data[start : start + size]
        self.initrd_addr_max = self._field("<I", 0x22C)
        self.relocatable = bool(self.data[0x234])
        self.cmdline_size = self._field("<I", zeropage.CMDLINE_SIZE)
        self.xloadflags = self._field("<H", 0x236) if self.version >= 0x020C else 0
        self.pref_address = self._field("<Q", 0x258) if self.version >= 0x020A else 0
        self.init_size = self._field("<I", 0x260) if self.version >= 0x020A else 0
        if not self._has_32_bit_entry():
            raise ImageError(
                f"this image{self._name()} has a Linux kernel's header but names no 32-bit entry point: "
                "it is started by its 16-bit setup code, which calls a BIOS, and this machine has none; "
                "give a kernel"
            )
        self.payload = self._find_payload()

    def _has_32_bit_entry(self) -> bool:
        """Whether the protected-mode code begins with an entry point.

        Linux's header always has a code32_start and, since protocol 2.05, a kernel_alignment. Images that
        borrow the header for boot loaders that run their 16-bit code leave both 0.
        """
        addresses = self._field("<I", zeropage.CODE32_START), self._field("<I", zeropage.KERNEL_ALIGNMENT)
        return any(addresses) or bool(self.xloadflags & XLF_KERNEL_64)

    def _name(self) -> str:
        """The version string that the header points to, in brackets; empty without one."""
        at = self._field("<H", zeropage.KERNEL_VERSION)
        text = bytes(self.data[at + 0x200 : at + 0x200 + _NAME_MAX]) if at else b""
        name = printable(text.partition(b"\0")[0].decode("ascii", "replace"))
        return f" ({name})" if name else ""

    def _field(self, layout: str, offset: int) -> int:
        value: int = struct.unpack_from(layout, self.data, offset)[0]
        return value

    def _find_payload(self) -> memoryview:
        if self.version < 0x0208:
            return self.kernel[:0]
        offset, length = self._field("<I", 0x248), self._field("<I", 0x24C)
        if offset + length > len(self.kernel):
            raise ImageError(
                f"the payload of this bzImage ({length} bytes at {offset}) reaches beyond its kernel of "
                f"{len(self.kernel)} bytes; the file is cut short or broken"
            )
        return self.kernel[offset : offset + length]

    def zero_page(self) -> bytearray:
        """A zero page with this kernel's setup header in it, everything else zero."""
        end = min(zeropage.HEADER + self.data[0x201], zeropage.SETUP_HEADER_END)
        page = bytearray(zeropage.SIZE)
        page[zeropage.SETUP_HEADER : end] = self.data[zeropage.SETUP_HEADER : end]
        return page

    def load_address(self) -> int:
        """The address of the protected-mode code: the preferred one of a relocatable kernel."""
        if self.relocatable and self.pref_address >= DEFAULT_LOAD:
            return self.pref_address
        return DEFAULT_LOAD

    def initrd_limits(self) -> tuple[int, ...]:
        """The highest addresses that an initrd byte may have: the usual one, then higher ones.

        Linux's header says 2 GiB for the sake of old boot loaders. With XLF_CAN_BE_LOADED_ABOVE_4G, which
        came later, the kernel takes an initrd anywhere, by the 64-bit protocol.
        """
        if self.xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G:
            return self.initrd_addr_max, zeropage.LOW_MAX, zeropage.HIGH_MAX
        return (self.initrd_addr_max,)

    def occupied(self, load: int) -> tuple[int, int]:
        """``(base, end)`` the kernel uses, loaded at *load*, until it reads its memory map."""
        run = load if self.relocatable or not self.pref_address else self.pref_address
        return min(load, run), max(load + len(self.kernel), run + self.init_size)


def load_bzimage(memory: GuestMemory, kernel: bytes | memoryview, params: BootParams) -> BootEntry:
    """Load a bzImage with what *params* asks for. Raises ImageError, DoesNotFitError."""
    image = BzImage(kernel)
    load = image.load_address()
    base, end = image.occupied(load)
    check_range(memory, "the kernel, with the room it decompresses to,", base, end, lowmem.KERNEL_RANGES)
    if end > lowmem.IDENTITY_SIZE:
        raise ImageError(f"this kernel wants to be loaded at {load:#x}, above 4 GiB; it is broken")
    cmdline = write_cmdline(memory, params.cmdline, image.cmdline_size)
    initrd = load_initrds(memory, params, (base, end), *image.initrd_limits())
    page = image.zero_page()
    struct.pack_into("<I", page, zeropage.CODE32_START, load & 0xFFFFFFFF)
    memory.write(load, image.kernel)
    rsi = zeropage.write_zero_page(memory, page, cmdline, initrd, params.e820, params.rsdp)
    if image.xloadflags & XLF_KERNEL_64:
        return lowmem.long_entry(memory, load + ENTRY_64, {"rsi": rsi, "rsp": lowmem.STACK_TOP})
    return lowmem.protected_entry(memory, load, {"rsi": rsi, "rsp": lowmem.STACK_TOP})


def _cut(what: str, needed: int, size: int) -> ImageError:
    return ImageError(
        f"the {what} of this bzImage would end at byte {needed}, but the file has only {size}; "
        "it is cut short or broken"
    )
