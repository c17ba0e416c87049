"""How a kernel learns of virtio-mmio devices besides ACPI and device tree: ``virtio_mmio.device=``.

Source: Linux drivers/virtio/virtio_mmio.c and Documentation/admin-guide/kernel-parameters.txt. Unikernels and
small kernels that were written for Firecracker or QEMU's microvm read it, too.
"""

from __future__ import annotations

from pyvmm.boot.cmdline import add, parameters
from pyvmm.boot.elf import section

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: The name of such devices' parent: in Linux's image only if the driver has the parameter.
_CMDLINE_PARENT = b"virtio-mmio-cmdline"
#: The driver's ACPI identifier: in the image if the driver is built in, with ACPI support.
_ACPI_ID = b"LNRO0005"


def with_devices(cmdline: str, devices: Sequence[tuple[int, int]], size: int) -> str:
    """*cmdline* with *devices*, (address, interrupt) each.

    *size*: bytes of a device's registers, in whole KiB.
    """
    return add(cmdline, [f"virtio_mmio.device={size >> 10}K@{base:#x}:{irq}" for base, irq in devices])


def device_parameters(image: memoryview, cmdline: str, devices: Sequence[tuple[int, int]], size: int) -> str:
    """*cmdline* with *devices*, for a Linux kernel that finds them in no other way.

    *image* is the kernel, unpacked where that is possible. *devices*, *size*: as for ``with_devices``.
    """
    if not devices:
        return cmdline
    constants = section(image, b".rodata")
    if constants is None:
        constants = image
    if not _holds(constants, _CMDLINE_PARENT):
        return cmdline
    if _holds(constants, _ACPI_ID) and "acpi=off" not in parameters(cmdline):
        return cmdline
    return with_devices(cmdline, devices, size)


def _holds(image: memoryview, text: bytes) -> bool:
    import re  # its search takes a view: no copy of the kernel

    return re.search(re.escape(text), image) is not None
