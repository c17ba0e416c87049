"""Kernel or firmware, device tree and initrd into guest memory, and the registers a kernel expects.

Source: Linux Documentation/arm64/booting.rst: the device tree lies at a multiple of 8 bytes and has at
most 2 MiB, all of it and the initrd in the 32 GiB that the kernel lies in; x0 is its address.
"""

from __future__ import annotations

import os

from pyvmm.arch.arm64.tree import describe_boot
from pyvmm.boot.arm64.image import ALIGN, Arm64Image, unpack
from pyvmm.boot.cmdline import encoded
from pyvmm.boot.devicetree import DeviceTreeError, apply_overlay, pack
from pyvmm.boot.devicetree.blob import MAX_SIZE
from pyvmm.boot.devicetree.blob import unpack as unpack_tree
from pyvmm.boot.entry import EL1, BootEntry
from pyvmm.boot.errors import DoesNotFitError, ImageError
from pyvmm.boot.initrd import lay_out, write_at
from pyvmm.host.opened import open_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.arch.arm64.firmware import Arm64RomImage
    from pyvmm.boot.devicetree import Tree
    from pyvmm.memory.guest import GuestMemory

#: Linux arch/arm64/include/uapi/asm/setup.h, COMMAND_LINE_SIZE: with its zero.
CMDLINE_SIZE = 2048
_ELF_MAGIC = b"\x7fELF"


def load_kernel(
    memory: GuestMemory,
    kernel: memoryview,
    initrds: Sequence[bytes | memoryview],
    cmdline: str,
    tree: Tree,
    stdout: str | None,
) -> BootEntry:
    """An Image, or an ELF file linked for this machine's RAM. Raises ImageError, DoesNotFitError."""
    encoded(cmdline, CMDLINE_SIZE - 1)  # refuses what Linux would cut off
    if bytes(kernel[:4]) == _ELF_MAGIC:
        from pyvmm.arch.arm64.firmware import load_elf

        entry, taken = load_elf(memory, kernel)
        end = max(high for _, high in taken)
    else:
        entry, end = Arm64Image(unpack(kernel)).load(memory)
    top = memory.ram_spans()[0][1]
    at = -(-end // ALIGN) * ALIGN
    behind = at + ALIGN
    initrd = _load_initrds(memory, initrds, behind, top)
    describe_boot(tree, cmdline, initrd, stdout)
    return _enter(memory, entry, tree, at)


def load_firmware(
    memory: GuestMemory,
    data: memoryview,
    rom: Arm64RomImage | None,
    base: int | None,
    cmdline: str,
    tree: Tree,
    stdout: str | None,
) -> BootEntry:
    """A ROM, which is mapped already, a flat image for the address *base*, or an ELF file.

    Raises ImageError, DoesNotFitError.
    """
    from pyvmm.arch.arm64.firmware import load_elf, load_flat

    taken: list[tuple[int, int]] = []
    if rom is not None:
        entry = rom.places[0][0]
    elif bytes(data[:4]) == _ELF_MAGIC:
        entry, taken = load_elf(memory, data)
    else:
        assert base is not None, "without a place of its own firmware is a ROM"
        entry, end = load_flat(memory, data, base)
        taken = [(entry, end)]
    describe_boot(tree, cmdline, None, stdout)
    at = memory.ram_spans()[0][0]
    for low, high in sorted(taken):
        if low < at + MAX_SIZE and at < high:
            at = -(-high // ALIGN) * ALIGN
    return _enter(memory, entry, tree, at)


def read_tree(path: str) -> Tree:
    """The device tree in a file. Raises ImageError or DeviceTreeError, naming the path."""
    try:
        with os.fdopen(open_file(path, os.O_RDONLY | os.O_CLOEXEC), "rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise ImageError(f"device tree {path} cannot be read: {error.strerror}") from None
    try:
        return unpack_tree(data)
    except DeviceTreeError as error:
        raise DeviceTreeError(f"{path}: {error}") from None


def put_overlay(tree: Tree, path: str) -> None:
    """Apply the overlay in a file to *tree*. Raises ImageError or DeviceTreeError, naming the path."""
    overlay = read_tree(path)
    try:
        apply_overlay(tree, overlay)
    except DeviceTreeError as error:
        raise DeviceTreeError(f"{path}: {error}") from None


def _load_initrds(
    memory: GuestMemory, initrds: Sequence[bytes | memoryview], base: int, top: int
) -> tuple[int, int] | None:
    """Write them one after another, each at a multiple of 4; ``(base, end)``, None for no bytes."""
    offsets, size = lay_out(initrds)
    if not size:
        return None
    if base + size > top:
        raise DoesNotFitError(
            f"the initrd has {size} bytes, but from {base:#x}, behind kernel and device tree, to the end of "
            f"memory at {top:#x} there are {max(top - base, 0)}; give the guest more memory"
        )
    write_at(memory, base, offsets, initrds)
    return base, base + size


def _enter(memory: GuestMemory, entry: int, tree: Tree, at: int) -> BootEntry:
    blob = pack(tree)
    if not memory.contains(at, len(blob)):
        raise DoesNotFitError(
            f"the device tree has {len(blob)} bytes and goes to {at:#x}, which is beyond the guest's memory; "
            "give the guest more"
        )
    memory.write(at, blob)
    return BootEntry(EL1, entry, {"x0": at, "x1": 0, "x2": 0, "x3": 0})
