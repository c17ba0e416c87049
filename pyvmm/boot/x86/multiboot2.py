"""Multiboot2 kernels: Multiboot2 Specification 2.0, sections 3.1 to 3.6 (i386)."""

from __future__ import annotations

import struct

from pyvmm.boot.cmdline import encoded
from pyvmm.boot.errors import DoesNotFitError, ImageError
from pyvmm.boot.x86 import lowmem
from pyvmm.boot.x86.multiboot import (
    LOADER_NAME,
    load_elf_part,
    load_flat,
    load_modules,
    memory_sizes,
    report_no_display,
    search,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.entry import BootEntry
    from pyvmm.boot.x86.params import BootParams
    from pyvmm.memory.guest import GuestMemory

HEADER_MAGIC = 0xE85250D6
BOOTLOADER_MAGIC = 0x36D76289
ARCHITECTURE_I386 = 0
SEARCH = 32768

HEADER_TAG_END = 0
HEADER_TAG_INFORMATION_REQUEST = 1
HEADER_TAG_ADDRESS = 2
HEADER_TAG_ENTRY_ADDRESS = 3
HEADER_TAG_CONSOLE_FLAGS = 4
HEADER_TAG_FRAMEBUFFER = 5
HEADER_TAG_MODULE_ALIGN = 6
HEADER_TAG_EFI_BS = 7
HEADER_TAG_ENTRY_ADDRESS_EFI32 = 8
HEADER_TAG_ENTRY_ADDRESS_EFI64 = 9
HEADER_TAG_RELOCATABLE = 10
#: Nothing to do: modules are page aligned, there is no EFI, kernels load where linked.
_IGNORED = (
    HEADER_TAG_MODULE_ALIGN,
    HEADER_TAG_EFI_BS,
    HEADER_TAG_ENTRY_ADDRESS_EFI32,
    HEADER_TAG_ENTRY_ADDRESS_EFI64,
    HEADER_TAG_RELOCATABLE,
)
#: Body sizes of the tags that say where to load and start.
_LOAD_TAGS = {HEADER_TAG_ADDRESS: 16, HEADER_TAG_ENTRY_ADDRESS: 4}
_OPTIONAL = 1
_CONSOLE_REQUIRED = 1

TAG_END = 0
TAG_CMDLINE = 1
TAG_BOOT_LOADER_NAME = 2
TAG_MODULE = 3
TAG_BASIC_MEMINFO = 4
TAG_MMAP = 6
TAG_ACPI_OLD = 14
TAG_ACPI_NEW = 15
#: The last tag the specification knows (image load base).
_TAG_LAST = 21


def find_header(data: memoryview) -> int | None:
    """Offset of the multiboot2 header, None without one: 8-byte aligned, in the first 32 KiB."""
    return search(data[:SEARCH], HEADER_MAGIC, 8, struct.Struct("<4I"))


def load_multiboot2(memory: GuestMemory, data: bytes | memoryview, params: BootParams) -> BootEntry:
    """Load a multiboot2 kernel, its modules (the initrds) and the boot information.

    A framebuffer or display that it asks for is missing, which is reported. Raises ImageError, naming what
    else the kernel requires and this machine does not have, and DoesNotFitError.
    """
    view = memoryview(data)
    header = find_header(view)
    if header is None:
        raise ImageError(
            "this file has no multiboot2 header in its first 32 KiB; link the header's section first"
        )
    architecture, length = struct.unpack_from("<2I", view, header + 4)
    if architecture != ARCHITECTURE_I386:
        raise ImageError(
            f"this multiboot2 kernel is for architecture {architecture}; 0 (i386) is the one for x86"
        )
    if length < 16 or header + length > min(len(view), SEARCH):
        raise ImageError(
            f"the multiboot2 header of {length} bytes at byte {header} does not lie in the file's first "
            "32 KiB; it is cut short or broken"
        )
    tags = _read_tags(view[header + 16 : header + length])
    entry, end = _load_kernel(memory, view, header, tags)
    modules = load_modules(memory, params.initrds, end)
    info = _write_info(memory, params, modules)
    return lowmem.protected_entry(memory, entry, {"rax": BOOTLOADER_MAGIC, "rbx": info})


def _read_tags(tags: memoryview) -> dict[int, memoryview]:
    """The header's tags by type, their bodies as values. Raises ImageError for an unsupported one."""
    found: dict[int, memoryview] = {}
    at = 0
    while at + 8 <= len(tags):
        kind, flags, size = struct.unpack_from("<HHI", tags, at)
        if kind == HEADER_TAG_END:
            break
        if size < 8 or at + size > len(tags):
            raise ImageError(
                f"multiboot2 header tag {kind} claims {size} bytes, but 8 to {len(tags) - at} are possible; "
                "the header is broken"
            )
        body = tags[at + 8 : at + size]
        at += -(-size // 8) * 8
        if len(body) >= _LOAD_TAGS.get(kind, 1 << 32):
            found[kind] = body
        elif not flags & _OPTIONAL and kind not in _IGNORED:
            _require(kind, body)
    return found


def _require(kind: int, body: memoryview) -> None:
    """Report a display that is asked for; raise ImageError for another tag that cannot be met."""
    if kind == HEADER_TAG_INFORMATION_REQUEST:
        for (tag,) in struct.iter_unpack("<I", body[: len(body) // 4 * 4]):
            if tag > _TAG_LAST:
                raise ImageError(f"this multiboot2 kernel requires information tag {tag}, which is not known")
    elif kind == HEADER_TAG_FRAMEBUFFER:
        report_no_display("multiboot2", "a framebuffer")
    elif kind == HEADER_TAG_CONSOLE_FLAGS:
        if body[:1] and body[0] & _CONSOLE_REQUIRED:
            report_no_display("multiboot2", "a text or graphics console")
    else:
        raise ImageError(f"this multiboot2 kernel requires header tag {kind}, which is not known or broken")


def _load_kernel(
    memory: GuestMemory, view: memoryview, header: int, tags: dict[int, memoryview]
) -> tuple[int, int]:
    if HEADER_TAG_ADDRESS not in tags:
        entry, end = load_elf_part(memory, view)
        if HEADER_TAG_ENTRY_ADDRESS in tags:
            (entry,) = struct.unpack_from("<I", tags[HEADER_TAG_ENTRY_ADDRESS])
        return entry, end
    header_addr, load_addr, load_end, bss_end = struct.unpack_from("<4I", tags[HEADER_TAG_ADDRESS])
    if HEADER_TAG_ENTRY_ADDRESS not in tags:
        raise ImageError("this multiboot2 kernel has an address tag but no entry address tag; add one")
    (entry,) = struct.unpack_from("<I", tags[HEADER_TAG_ENTRY_ADDRESS])
    if load_addr == 0xFFFFFFFF:  # from the beginning of the file
        load_addr = header_addr - header
    end = load_flat(memory, view, header - (header_addr - load_addr), load_addr, load_end, bss_end)
    if not load_addr <= entry < end:
        raise ImageError(f"the multiboot2 entry point {entry:#x} lies outside the kernel")
    return entry, end


def _write_info(memory: GuestMemory, params: BootParams, modules: list[tuple[int, int]]) -> int:
    mmap = b"".join(struct.pack("<QQII", base, size, kind, 0) for base, size, kind in params.e820)
    cmdline = encoded(params.cmdline)
    tags = [
        _tag(TAG_CMDLINE, cmdline + b"\0"),
        _tag(TAG_BOOT_LOADER_NAME, LOADER_NAME),
        _tag(TAG_BASIC_MEMINFO, struct.pack("<2I", *memory_sizes(memory))),
        _tag(TAG_MMAP, struct.pack("<2I", 24, 0) + mmap),
    ]
    tags += [_tag(TAG_MODULE, struct.pack("<2I", base, end) + b"\0") for base, end in modules]
    if params.rsdp:
        rsdp = memory.read(params.rsdp, 36)
        # ACPI 1.0 (revision 0) has the first 20 bytes only.
        tags.append(_tag(TAG_ACPI_NEW, rsdp) if rsdp[15] >= 2 else _tag(TAG_ACPI_OLD, rsdp[:20]))
    tags.append(_tag(TAG_END, b""))
    body = b"".join(tags)
    room = lowmem.MULTIBOOT_END - lowmem.MULTIBOOT_INFO - 8
    if len(body) > room:
        raise DoesNotFitError(
            f"the multiboot2 information has {len(body)} bytes, but at most {room} fit; shorten the command "
            "line or give fewer modules"
        )
    memory.write(lowmem.MULTIBOOT_INFO, struct.pack("<2I", len(body) + 8, 0) + body)
    return lowmem.MULTIBOOT_INFO


def _tag(kind: int, body: bytes) -> bytes:
    """A boot information tag, padded so that the next one starts at a multiple of 8."""
    size = 8 + len(body)
    return struct.pack("<2I", kind, size) + body + bytes(-size % 8)
