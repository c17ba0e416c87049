"""Which host object lies at which guest-physical address: parts in order, around a gap."""

from __future__ import annotations

from pyvmm.memory.errors import MemoryConfigError
from pyvmm.memory.guest import Region
from pyvmm.memory.host import PAGE_SIZE, PHYSICAL_LIMIT, Anonymous, HostMemory, check_size
from pyvmm.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Part:
    """*size* bytes of guest RAM and what makes them: ``backing(size)`` returns the host object.

    The classes of ``memory.host`` are such makers: ``Part(128 << 20, Memfd)``. Raises MemoryConfigError for a
    size that is no whole number of pages.
    """

    __slots__ = ("backing", "name", "size")

    def __init__(
        self, size: int, backing: Callable[[int], HostMemory] = Anonymous, name: str = "ram"
    ) -> None:
        check_size(size)
        self.size = size
        self.backing = backing
        self.name = name


class Span:
    """A piece of part number *part*: *size* bytes from *offset* in it, at guest-physical *gpa*."""

    __slots__ = ("gpa", "offset", "part", "size")

    def __init__(self, part: int, offset: int, gpa: int, size: int) -> None:
        self.part = part
        self.offset = offset
        self.gpa = gpa
        self.size = size


def spans(sizes: Sequence[int], gap_start: int, gap_end: int) -> list[Span]:
    """Where parts of *sizes* bytes go: from address 0 up, without a hole but the gap.

    The gap is the guest-physical addresses from *gap_start* to below *gap_end*, multiples of the page size;
    without one both are equal. A part that reaches into the gap continues behind it. Raises
    MemoryConfigError.
    """
    if (gap_start | gap_end) % PAGE_SIZE or not 0 <= gap_start <= gap_end <= PHYSICAL_LIMIT:
        raise MemoryConfigError(
            f"the gap from {gap_start:#x} to {gap_end:#x} in guest memory is wrong; give whole pages, "
            "the lower end first"
        )
    placed = []
    gpa = gap_end if gap_start == 0 else 0
    for part, size in enumerate(sizes):
        check_size(size)
        offset = 0
        while offset < size:
            room = gap_start - gpa if gpa < gap_start else PHYSICAL_LIMIT - gpa
            take = min(size - offset, room)
            if not take:
                raise MemoryConfigError(
                    f"{format_size(sum(sizes))} of guest memory do not fit below {PHYSICAL_LIMIT:#x}; "
                    "ask for less"
                )
            placed.append(Span(part, offset, gpa, take))
            offset += take
            gpa += take
            if gpa == gap_start:
                gpa = gap_end
    return placed


def assemble(parts: int | Sequence[Part], gap_start: int, gap_end: int) -> list[Region]:
    """The regions of guest RAM around the gap, for ``GuestMemory``; their host objects are made.

    *parts* is a total size in bytes, which becomes one anonymous part, or a list; *gap_start* and *gap_end*
    are those of ``spans``. Raises MemoryConfigError before anything is made, HostMemoryError with
    everything closed again.
    """
    if isinstance(parts, int):
        parts = [Part(parts)]
    if not parts:
        raise MemoryConfigError("the guest has no memory; give it a size, such as 256M")
    plan = spans([part.size for part in parts], gap_start, gap_end)
    hosts: list[HostMemory] = []
    try:
        for part in parts:
            hosts.append(part.backing(part.size))  # noqa: PERF401 - what was made must be closed
        return [
            Region(span.gpa, span.size, hosts[span.part], span.offset, False, parts[span.part].name)
            for span in plan
        ]
    except BaseException:
        for host in hosts:
            host.close()
        raise


def carve(regions: Sequence[Region], start: int, end: int) -> list[Region]:
    """*regions* without the guest-physical addresses from *start* to below *end*, where something else is.

    The host memory behind them stays unused. Raises MemoryConfigError where a piece left over is
    not whole pages.
    """
    left = []
    for region in regions:
        for low, high in ((region.gpa, min(region.end, start)), (max(region.gpa, end), region.end)):
            if low < high:
                offset = region.offset + low - region.gpa
                left.append(Region(low, high - low, region.host, offset, region.readonly, region.name))
    return left
