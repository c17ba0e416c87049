"""The memory regions a config asks for: its parts of RAM, and the firmware's ROM."""

from __future__ import annotations

from pyvmm.memory.errors import HostMemoryError
from pyvmm.memory.guest import Region
from pyvmm.memory.host import Anonymous, FileBacked, HostMemory, Hugetlb, Memfd
from pyvmm.memory.layout import Part, assemble, carve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.arch.interface import Rom
    from pyvmm.config import Config, MemoryPart


def regions_of(config: Config, rom: Rom | None, gap: tuple[int, int], share: bool) -> list[Region]:
    """RAM outside *gap* and the regions of *rom*, which take the place of RAM at their addresses.

    *gap* is ``(first, end)``, guest-physical. With *share*, another process can map the RAM and cannot change
    its size. Raises MemoryConfigError, HostMemoryError.
    """
    ram = assemble(memory_parts(config, share), *gap)
    if rom is None:
        return ram
    try:
        host = Anonymous(max(offset + size for _, offset, size, _ in rom.places))
        host.buffer[: len(rom.data)] = rom.data
        regions = ram
        for base, offset, size, name in rom.places:
            regions = carve(regions, base, base + size)
            regions.append(Region(base, size, host, offset, readonly=True, name=name))
        return regions
    except BaseException:
        for region in ram:
            region.host.close()
        raise


def memory_parts(config: Config, share: bool) -> list[Part]:
    """The config's memory parts; with *share*, of memory that another process can map."""
    return [Part(part.size, _maker(part, share), f"ram {index}") for index, part in enumerate(config.memory)]


def _maker(part: MemoryPart, share: bool) -> Callable[[int], HostMemory]:
    path = part.path
    if path is None:
        return {"anonymous": Memfd if share else Anonymous, "memfd": Memfd, "hugetlb": Hugetlb}[part.backing]

    def from_file(size: int) -> HostMemory:
        if share:
            raise HostMemoryError(
                f"memory file {path} cannot be shared with another process, which could end this one by "
                "truncating it; use memfd or hugetlb memory with this device"
            )
        host = FileBacked(path)
        if host.size != size:
            has = host.size
            host.close()
            raise HostMemoryError(f"memory file {path} has {has} bytes and the part {size}; make them equal")
        return host

    return from_file
