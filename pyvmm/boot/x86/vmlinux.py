"""ELF kernels: by the PVH boot ABI where they have its note, else by the Linux boot protocol.

PVH: Xen's docs/misc/pvh.pandoc and include/public/arch-x86/hvm/start_info.h. Linux: "64-bit
Boot Protocol" and "32-bit Boot Protocol" of Documentation/arch/x86/boot.rst; a vmlinux is
entered at its ``e_entry``.
"""

from __future__ import annotations

import struct

from pyvmm.boot.elf import ElfImage
from pyvmm.boot.errors import DoesNotFitError, ImageError
from pyvmm.boot.x86 import lowmem, zeropage
from pyvmm.boot.x86.initrd import load_initrds
from pyvmm.boot.x86.params import write_cmdline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.entry import BootEntry
    from pyvmm.boot.x86.bzimage import BzImage
    from pyvmm.boot.x86.params import BootParams
    from pyvmm.memory.guest import GuestMemory

XEN_ELFNOTE_PHYS32_ENTRY = 18
XEN_HVM_START_MAGIC_VALUE = 0x336EC578
#: The highest address of an initrd, where no header tells: 64-bit Linux maps all of low memory and takes one
#: up to 4 GiB where there is no other room, 32-bit Linux maps 896 MiB.
_INITRD_MAX_64 = 0x7FFFFFFF
_INITRD_MAX_32 = 0x37FFFFFF


def load_elf(
    memory: GuestMemory,
    data: bytes | memoryview,
    params: BootParams,
    protocol: str = "auto",
    header: BzImage | None = None,
) -> BootEntry:
    """Load an ELF kernel. *protocol*: "auto", "elf", "pvh" or "linux64".

    "auto" refuses programs: files that say that an operating system starts them, and have no PVH note.
    *header*: the bzImage the ELF file came out of; its setup header then gives limits and
    boot parameters. Raises ImageError, NotAKernelError, DoesNotFitError.
    """
    image = ElfImage(data)
    pvh = pvh_entry(image) if protocol != "linux64" else None
    if protocol == "auto" and pvh is None and header is None:
        image.refuse_program(
            interpreter=True,
            remedy="and has no PVH note; give a kernel, or --boot elf to start the file at its entry anyway",
        )
    if protocol == "pvh" and pvh is None:
        raise ImageError(
            "this ELF file has no PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY); build the kernel with "
            "CONFIG_PVH or boot it by the Linux protocol (linux64)"
        )
    if protocol == "linux64" and image.bits != 64:
        raise ImageError(
            "this ELF file is a 32-bit kernel and has no 64-bit entry; let the format be detected"
        )
    entry = image.check_entry(image.physical_entry() if pvh is None else pvh)
    image.load(memory, lowmem.KERNEL_RANGES)
    limit = zeropage.LINUX_CMDLINE_SIZE if header is None else header.cmdline_size
    cmdline = write_cmdline(memory, params.cmdline, limit)
    occupied = (image.segments[0].paddr, image.end)
    if header is not None:
        limits = header.initrd_limits()
        occupied = (occupied[0], max(occupied[1], occupied[0] + header.init_size))
    else:
        limits = (_INITRD_MAX_64, zeropage.LOW_MAX) if image.bits == 64 else (_INITRD_MAX_32,)
    initrd = load_initrds(memory, params, occupied, *limits)
    if pvh is not None and initrd[0] > zeropage.LOW_MAX:
        # Linux keeps 32 bits of a PVH module's address (arch/x86/platform/pvh/enlighten.c).
        pvh, entry = None, image.check_entry(image.physical_entry())
    if pvh is not None:
        start_info = write_start_info(memory, params, cmdline, [initrd] if initrd[1] else [])
        return lowmem.protected_entry(memory, entry, {"rbx": start_info})
    page = zeropage.fresh_header() if header is None else header.zero_page()
    rsi = zeropage.write_zero_page(memory, page, cmdline, initrd, params.e820, params.rsdp)
    registers = {"rsi": rsi, "rsp": lowmem.STACK_TOP}
    if image.bits == 64:
        return lowmem.long_entry(memory, entry, registers)
    return lowmem.protected_entry(memory, entry, registers)


def pvh_entry(image: ElfImage) -> int | None:
    """The 32-bit physical entry point in a PVH kernel's note; None without one. Raises ImageError."""
    note = image.note(b"Xen", XEN_ELFNOTE_PHYS32_ENTRY)
    if note is None:
        return None
    if len(note) not in (4, 8) or int.from_bytes(note, "little") >> 32:
        raise ImageError(
            f"the PVH entry note of this ELF file has {len(note)} bytes: {note[:8].hex()}; it is broken"
        )
    return int.from_bytes(note, "little")


def write_start_info(
    memory: GuestMemory, params: BootParams, cmdline: int, modules: list[tuple[int, int]]
) -> int:
    """Write struct hvm_start_info, version 1, with its module and memory lists; return its address.

    *cmdline*: the command line's guest-physical address. Raises DoesNotFitError.
    """
    room = (lowmem.PVH_END - lowmem.PVH_MEMMAP) // 24
    if len(params.e820) > room:
        raise DoesNotFitError(
            f"the memory map has {len(params.e820)} ranges, but at most {room} fit; place fewer"
        )
    # struct hvm_memmap_table_entry { uint64_t addr, size; uint32_t type, reserved; };
    memmap = b"".join(struct.pack("<QQII", base, size, kind, 0) for base, size, kind in params.e820)
    # struct hvm_modlist_entry { uint64_t paddr, size, cmdline_paddr, reserved; };
    modlist = b"".join(struct.pack("<4Q", base, size, 0, 0) for base, size in modules)
    # struct hvm_start_info { uint32_t magic, version, flags, nr_modules; uint64_t modlist_paddr,
    #     cmdline_paddr, rsdp_paddr, memmap_paddr; uint32_t memmap_entries, reserved; };
    info = struct.pack(
        "<4I4Q2I",
        XEN_HVM_START_MAGIC_VALUE,
        1,
        0,
        len(modules),
        lowmem.PVH_MODLIST if modules else 0,
        cmdline,
        params.rsdp,
        lowmem.PVH_MEMMAP if memmap else 0,
        len(params.e820),
        0,
    )
    memory.write(lowmem.PVH_START_INFO, info)
    if modlist:
        memory.write(lowmem.PVH_MODLIST, modlist)
    if memmap:
        memory.write(lowmem.PVH_MEMMAP, memmap)
    return lowmem.PVH_START_INFO
