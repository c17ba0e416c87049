"""What a kernel is given: command line, initrds, memory map, tables."""

from __future__ import annotations

from pyvmm.boot.cmdline import encoded
from pyvmm.boot.x86 import lowmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.memory.guest import GuestMemory


class BootParams:
    """What the user and the machine give to a kernel, whatever its format.

    *cmdline*: the kernel command line. *initrds*: bytes-like objects; Linux gets them as
    one, each starting at a multiple of 4 bytes, multiboot as modules. *e820*: the memory
    map, ``(base, size, type)`` in ascending order (``e820.build_e820``), also where initrds
    are placed. *rsdp*: guest
    address of the ACPI root pointer, already written, or 0.
    """

    __slots__ = ("cmdline", "e820", "initrds", "rsdp")

    def __init__(
        self,
        cmdline: str = "",
        initrds: Sequence[bytes | memoryview] = (),
        e820: Sequence[tuple[int, int, int]] = (),
        rsdp: int = 0,
    ) -> None:
        self.cmdline = cmdline
        self.initrds = initrds
        self.e820 = e820
        self.rsdp = rsdp


def write_cmdline(memory: GuestMemory, cmdline: str, limit: int) -> int:
    """Write *cmdline* with its terminating zero; return its guest address.

    *limit*: bytes that the kernel accepts, without the zero. Raises DoesNotFitError beyond it and ImageError
    for a line with a zero byte.
    """
    limit = min(limit, lowmem.CMDLINE_END - lowmem.CMDLINE - 1)
    memory.write(lowmem.CMDLINE, encoded(cmdline, limit) + b"\0")
    return lowmem.CMDLINE
