"""Where initrds go on x86: as high as the kernel's limit and the memory map allow."""

from __future__ import annotations

from pyvmm.boot.errors import DoesNotFitError
from pyvmm.boot.initrd import lay_out, write_at
from pyvmm.boot.x86.e820 import E820_RAM
from pyvmm.boot.x86.lowmem import HIGH_MEMORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.x86.params import BootParams
    from pyvmm.memory.guest import GuestMemory

_PAGE = 0x1000


def load_initrds(
    memory: GuestMemory, params: BootParams, kernel: tuple[int, int], addr_max: int, *further: int
) -> tuple[int, int]:
    """Write the initrds one after another, each at a multiple of 4 bytes, as high as possible.

    They go where *params*' memory map has RAM.

    *kernel*: ``(base, end)`` of what the kernel occupies until it reads its memory map.
    *addr_max*: the highest address an initrd byte may have; *further*: higher ones, each tried where there is
    no room up to the one before. Returns ``(base, size)``, ``(0, 0)`` for no initrd. Raises DoesNotFitError
    when there is no room. The archives are concatenated as
    Documentation/driver-api/early-userspace/buffer-format.rst allows.
    """
    offsets, size = lay_out(params.initrds)
    if not size:
        return 0, 0
    ram = [(base, base + length) for base, length, kind in params.e820 if kind == E820_RAM]
    for limit in (addr_max, *further):
        base = _highest(ram, size, kernel, limit)
        if base is not None:
            write_at(memory, base, offsets, params.initrds)
            return base, size
    top = max((high for _, high in ram), default=0)
    room = min(top, limit + 1)
    where, remedy = "", "give the guest more memory or make the initrd smaller"
    if room < top:
        where, remedy = ", where this kernel wants it", "make the initrd smaller"
    raise DoesNotFitError(
        f"the initrd has {size} bytes, but beside the kernel ({kernel[0]:#x} to {kernel[1]:#x}) there is no "
        f"such room below {room:#x}{where}; {remedy}"
    )


def _highest(ram: list[tuple[int, int]], size: int, kernel: tuple[int, int], addr_max: int) -> int | None:
    """The highest base of *size* bytes in *ram*, beside *kernel*, up to *addr_max*; None without room."""
    for low, high in reversed(ram):
        high = min(high, addr_max + 1)
        # Above the kernel first, then between 1 MiB and the kernel.
        for floor, ceiling in ((kernel[1], high), (HIGH_MEMORY, min(high, kernel[0]))):
            base = (ceiling - size) // _PAGE * _PAGE
            if base >= max(low, floor, HIGH_MEMORY):
                return base
    return None
