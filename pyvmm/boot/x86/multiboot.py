"""Multiboot (version 1) kernels: Multiboot Specification 0.6.96, sections 3.1 to 3.3."""

from __future__ import annotations

import struct

from pyvmm.boot.elf import MAGIC as ELF_MAGIC
from pyvmm.boot.elf import ElfImage
from pyvmm.boot.errors import DoesNotFitError, ImageError
from pyvmm.boot.ranges import check_range, clear
from pyvmm.boot.x86 import lowmem
from pyvmm.boot.x86.params import write_cmdline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.boot.entry import BootEntry
    from pyvmm.boot.x86.params import BootParams
    from pyvmm.memory.guest import GuestMemory

HEADER_MAGIC = 0x1BADB002
BOOTLOADER_MAGIC = 0x2BADB002
SEARCH = 8192

PAGE_ALIGN = 1 << 0
MEMORY_INFO = 1 << 1
VIDEO_MODE = 1 << 2
AOUT_KLUDGE = 1 << 16
#: The lower half of the flags are requirements.
_REQUIRED = 0xFFFF

INFO_MEMORY = 1 << 0
INFO_CMDLINE = 1 << 2
INFO_MODS = 1 << 3
INFO_MEM_MAP = 1 << 6
INFO_BOOT_LOADER_NAME = 1 << 9
_INFO_SIZE = 116

LOADER_NAME = b"pyvmm\0"
_PAGE = 0x1000


def find_header(data: memoryview) -> int | None:
    """Offset of the multiboot header, None without one: 4-byte aligned, in the first 8 KiB."""
    return search(data[:SEARCH], HEADER_MAGIC, 4, struct.Struct("<3I"))


def search(data: memoryview, magic: int, align: int, words: struct.Struct) -> int | None:
    """The offset of *words* that begin with *magic*, 32 bits, and add up to 0; None without.

    The offset is a multiple of *align*, in bytes.
    """
    head = bytes(data)
    first = struct.pack("<I", magic)
    at = head.find(first)
    while 0 <= at <= len(head) - words.size:
        if at % align == 0 and sum(words.unpack_from(head, at)) & 0xFFFFFFFF == 0:
            return at
        at = head.find(first, at + 1)
    return None


def load_multiboot(memory: GuestMemory, data: bytes | memoryview, params: BootParams) -> BootEntry:
    """Load a multiboot kernel, its modules (the initrds) and the multiboot information.

    A video mode that it asks for is not set, which is reported. Raises ImageError, naming what else the
    kernel requires and this machine does not have, and DoesNotFitError.
    """
    view = memoryview(data)
    header = find_header(view)
    if header is None:
        raise ImageError(
            "this file has no multiboot header in its first 8 KiB; link the header's section first"
        )
    (flags,) = struct.unpack_from("<I", view, header + 4)
    if flags & VIDEO_MODE:
        report_no_display("multiboot", "a video mode")
    unknown = flags & _REQUIRED & ~(PAGE_ALIGN | MEMORY_INFO | VIDEO_MODE)
    if unknown:
        raise ImageError(
            f"this multiboot kernel requires unknown features (flags {unknown:#x}) of its boot loader"
        )
    if flags & AOUT_KLUDGE:
        if header + 32 > len(view):
            raise ImageError("the multiboot header's address fields are missing; the file is cut short")
        header_addr, load_addr, load_end, bss_end, entry = struct.unpack_from("<5I", view, header + 12)
        end = load_flat(memory, view, header - (header_addr - load_addr), load_addr, load_end, bss_end)
        if not load_addr <= entry < end:
            raise ImageError(f"the multiboot entry point {entry:#x} lies outside the kernel")
    else:
        entry, end = load_elf_part(memory, view)
    modules = load_modules(memory, params.initrds, end)
    info = _write_info(memory, params, modules)
    registers = {"rax": BOOTLOADER_MAGIC, "rbx": info}
    return lowmem.protected_entry(memory, entry, registers, lowmem.MULTIBOOT_CODE_SELECTOR)


def report_no_display(format: str, wish: str) -> None:
    """Report that a kernel of *format* is started without *wish*, such as ``a video mode``."""
    from pyvmm.host.notice import notice

    notice(
        f"{format} {wish}",
        f"this {format} kernel asks for {wish}, and this machine has no display: it is started without, with "
        "the serial port",
    )


def load_elf_part(memory: GuestMemory, view: memoryview) -> tuple[int, int]:
    """Load the ELF segments of a multiboot kernel without load addresses: ``(entry, end)``.

    Raises ImageError, DoesNotFitError.
    """
    if bytes(view[:4]) != ELF_MAGIC:
        raise ImageError(
            "this multiboot kernel is no ELF file and its header has no load addresses; add them (a.out "
            "kludge, address tag) or link it as ELF"
        )
    image = ElfImage(view)
    entry = image.check_entry(image.physical_entry())
    if image.end > 1 << 32:
        raise DoesNotFitError(
            "this multiboot kernel has a segment above 4 GiB, where 32-bit code cannot reach"
        )
    image.load(memory, lowmem.MULTIBOOT_RANGES)
    return entry, image.end


def load_flat(
    memory: GuestMemory, view: memoryview, offset: int, load_addr: int, load_end: int, bss_end: int
) -> int:
    """Load the file from *offset* on to *load_addr*, up to *load_end* (0: the whole file).

    Zeroes follow up to *bss_end* (0: none). Returns the address behind it all. Addresses are guest-physical.
    Raises ImageError, DoesNotFitError.
    """
    size = (load_end - load_addr) if load_end else len(view) - offset
    if offset < 0 or size <= 0 or offset + size > len(view):
        raise ImageError(
            f"the multiboot load addresses ask for {size} bytes from byte {offset} of a file of {len(view)}; "
            "the header is wrong or the file cut short"
        )
    end = max(load_addr + size, bss_end)
    check_range(memory, "the kernel", load_addr, end, lowmem.MULTIBOOT_RANGES)
    memory.write(load_addr, view[offset : offset + size])
    clear(memory, load_addr + size, end - load_addr - size)
    return end


def load_modules(
    memory: GuestMemory, initrds: Sequence[bytes | memoryview], kernel_end: int
) -> list[tuple[int, int]]:
    """Write each initrd to a page of its own behind the kernel: ``(base, end)`` of each, *end* exclusive.

    *kernel_end*: the guest-physical address behind the kernel. Low rather than high: small kernels map only
    what lies close to them. Raises DoesNotFitError.
    """
    modules = []
    at = max(kernel_end, lowmem.HIGH_MEMORY)
    for data in initrds:
        at = -(-at // _PAGE) * _PAGE
        if data:
            check_range(memory, "a multiboot module", at, at + len(data), ())
            memory.write(at, data)
        modules.append((at, at + len(data)))
        at += len(data)
    return modules


def memory_sizes(memory: GuestMemory) -> tuple[int, int]:
    """KiB of RAM from 0 up, and from 1 MiB up to the first hole."""
    end = next(
        (end for base, end in memory.ram_spans() if base <= lowmem.HIGH_MEMORY < end), lowmem.HIGH_MEMORY
    )
    return lowmem.RAM_END >> 10, min((end - lowmem.HIGH_MEMORY) >> 10, 0xFFFFFFFF)


def _write_info(memory: GuestMemory, params: BootParams, modules: list[tuple[int, int]]) -> int:
    cmdline = write_cmdline(memory, params.cmdline, lowmem.CMDLINE_END - lowmem.CMDLINE - 1)
    mmap = b"".join(struct.pack("<IQQI", 20, base, size, kind) for base, size, kind in params.e820)
    mmap_addr = lowmem.MULTIBOOT_INFO + _INFO_SIZE
    name_addr = mmap_addr + len(mmap)
    mods_addr = -(-(name_addr + len(LOADER_NAME)) // 4) * 4
    # The module string is required; this one is empty: the zero that ends the loader's name.
    empty = name_addr + len(LOADER_NAME) - 1
    mods = b"".join(struct.pack("<4I", base, end, empty, 0) for base, end in modules)
    if mods_addr + len(mods) > lowmem.MULTIBOOT_END:
        raise DoesNotFitError(f"{len(modules)} multiboot modules are too many; join some of them")
    info = bytearray(_INFO_SIZE)
    flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MEM_MAP | INFO_BOOT_LOADER_NAME
    struct.pack_into("<3I", info, 0, flags, *memory_sizes(memory))
    struct.pack_into("<3I", info, 16, cmdline, len(modules), mods_addr)
    struct.pack_into("<2I", info, 44, len(mmap), mmap_addr)
    struct.pack_into("<I", info, 64, name_addr)
    memory.write(lowmem.MULTIBOOT_INFO, bytes(info) + mmap + LOADER_NAME)
    if mods:
        memory.write(mods_addr, mods)
    return lowmem.MULTIBOOT_INFO
