"""How a kernel learns of virtio-mmio devices besides ACPI: the parameter ``virtio_mmio.device``.

Source: Linux drivers/virtio/virtio_mmio.c and Documentation/admin-guide/kernel-parameters.txt.
"""

from __future__ import annotations

from pyvmm.boot.elf import section

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: What the driver calls the parent of such devices: in the image only where it can be given them.
_CMDLINE_PARENT = b"virtio-mmio-cmdline"
#: The driver's ACPI identifier: in the image where the driver is built in and looks there.
_ACPI_ID = b"LNRO0005"


def device_words(image: memoryview, cmdline: str, devices: Sequence[tuple[int, int]], page_size: int) -> str:
    """*cmdline* with *devices*, (address, interrupt) each, where a kernel finds them in no other way.

    *image* is the kernel, unpacked where that could be done.
    """
    if not devices:
        return cmdline
    constants = section(image, b".rodata")
    if constants is None:
        constants = image
    if not _holds(constants, _CMDLINE_PARENT):
        return cmdline
    if _holds(constants, _ACPI_ID) and "acpi=off" not in cmdline.split():
        return cmdline
    words = [f"virtio_mmio.device={page_size >> 10}K@{base:#x}:{gsi}" for base, gsi in devices]
    return " ".join(filter(None, [cmdline, *words]))


def _holds(image: memoryview, text: bytes) -> bool:
    import re  # the one search that takes a view, without a copy of the kernel

    return re.search(re.escape(text), image) is not None
