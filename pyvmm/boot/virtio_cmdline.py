"""How a kernel learns of virtio-mmio devices besides ACPI: the parameter ``virtio_mmio.device``.

Source: Linux drivers/virtio/virtio_mmio.c and Documentation/admin-guide/kernel-parameters.txt.
"""

from __future__ import annotations

from pyvmm.boot.bzimage import BzImage
from pyvmm.boot.detect import BZIMAGE, detect
from pyvmm.boot.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: What the driver calls the parent of such devices: in the image only where it can be given them.
_CMDLINE_PARENT = b"virtio-mmio-cmdline"
#: The driver's ACPI identifier: in the image where the driver is built in and looks there.
_ACPI_ID = b"LNRO0005"


def device_words(kernel: memoryview, cmdline: str, devices: Sequence[tuple[int, int]], page_size: int) -> str:
    """*cmdline* with *devices*, (address, interrupt) each, where *kernel* finds them in no other way."""
    if not devices:
        return cmdline
    image = _unpacked(kernel)
    if image is None or not _holds(image, _CMDLINE_PARENT):
        return cmdline
    if _holds(image, _ACPI_ID) and "acpi=off" not in cmdline.split():
        return cmdline
    words = [f"virtio_mmio.device={page_size >> 10}K@{base:#x}:{gsi}" for base, gsi in devices]
    return " ".join(filter(None, [cmdline, *words]))


def _unpacked(kernel: memoryview) -> memoryview | None:
    """The kernel's ELF file; None where nothing can be known, which the loader tells better."""
    from pyvmm.boot.payload import PayloadError, unpack_cached

    try:
        return unpack_cached(BzImage(kernel).payload) if detect(kernel) == BZIMAGE else kernel
    except (PayloadError, ImageError):
        return None


def _holds(image: memoryview, text: bytes) -> bool:
    import re  # the one search that takes a view, without a copy of the kernel

    return re.search(re.escape(text), image) is not None
