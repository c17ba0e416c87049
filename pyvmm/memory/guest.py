"""The guest-physical map, and the checked access to guest memory.

Addresses are guest-physical (gpa), sizes are bytes. Whatever the guest or a device does
to RAM goes through here: every access lies wholly inside memory or raises
GuestMemoryError. A size below one byte is refused like an address outside.
"""

from __future__ import annotations

from bisect import bisect_right

from pyvmm.memory.errors import GuestMemoryError, MemoryConfigError
from pyvmm.memory.host import PAGE_SIZE, PHYSICAL_LIMIT, HostMemory, address_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from typing_extensions import Buffer


class Region:
    """*size* bytes of *host*, from *offset* on, at guest-physical *gpa*. All in whole pages.

    With *readonly* guest and devices may not write; whoever fills a ROM writes to
    ``host.buffer``. Raises MemoryConfigError.
    """

    __slots__ = ("end", "gpa", "host", "name", "offset", "readonly", "size")

    def __init__(
        self,
        gpa: int,
        size: int,
        host: HostMemory,
        offset: int = 0,
        readonly: bool = False,
        name: str = "ram",
    ) -> None:
        if (gpa | size | offset) % PAGE_SIZE:
            raise MemoryConfigError(
                f"memory region {name!r}: address {gpa:#x}, size {size:#x} and offset {offset:#x} must be "
                f"multiples of {PAGE_SIZE:#x}"
            )
        if gpa < 0 or size <= 0 or gpa + size > PHYSICAL_LIMIT:
            raise MemoryConfigError(
                f"memory region {name!r}: {size:#x} bytes at {gpa:#x} do not fit between 0 and "
                f"{PHYSICAL_LIMIT:#x}; move it or make it smaller"
            )
        if offset < 0 or offset + size > host.size:
            raise MemoryConfigError(
                f"memory region {name!r}: {size:#x} bytes from offset {offset:#x} on are more than its "
                f"{host.kind} memory of {host.size:#x} bytes has; make it smaller"
            )
        if host.buffer.readonly and not readonly:
            raise MemoryConfigError(f"memory region {name!r}: its {host.kind} memory is read-only; say so")
        self.gpa = gpa
        self.size = size
        self.host = host
        self.offset = offset
        self.readonly = readonly
        self.name = name
        #: The first address behind it.
        self.end = gpa + size

    @property
    def address(self) -> int:
        """Host virtual address of the first byte."""
        return self.host.address + self.offset

    @property
    def buffer(self) -> memoryview:
        """A view of the whole region, read-only if the region is."""
        view = self.host.buffer[self.offset : self.offset + self.size]
        return view.toreadonly() if self.readonly else view


class GuestMemory:
    """Disjoint regions as one map. Immutable once made, so any thread reads it without a lock.

    ``regions`` are sorted by address, ``size`` is their sum. Raises MemoryConfigError
    naming both regions when two overlap; the host objects are then still the caller's,
    afterwards ``close`` closes them.
    """

    __slots__ = (
        "_bases",
        "_ends",
        "_extent",
        "_span_bases",
        "_span_ends",
        "_starts",
        "_u8",
        "_u16",
        "_u32",
        "_u64",
        "_write_ends",
        "regions",
        "size",
    )

    def __init__(self, regions: Iterable[Region]) -> None:
        ordered = sorted(regions, key=lambda region: region.gpa)
        for left, right in zip(ordered, ordered[1:], strict=False):
            if right.gpa < left.end:
                raise MemoryConfigError(
                    f"memory regions {left.name!r} ({left.gpa:#x}-{left.end - 1:#x}) and {right.name!r} "
                    f"({right.gpa:#x}-{right.end - 1:#x}) overlap; move one of them"
                )
        self.regions = tuple(ordered)
        self.size = sum(region.size for region in ordered)
        self._index(ordered)

    def _index(self, regions: list[Region]) -> None:
        # bisect_right over _bases yields 1 for the first region: the lists indexed with
        # it hold a filler at 0, which "no region at or below" (0) never reaches.
        nothing = memoryview(b"")
        buffers = [region.buffer for region in regions]
        self._bases = [region.gpa for region in regions]
        self._starts = [0, *self._bases]
        self._ends = [0, *(region.end for region in regions)]
        # For writes the end of a read-only region is 0, so every write is refused without a further test.
        self._write_ends = [0, *(0 if region.readonly else region.end for region in regions)]
        self._u8: list[memoryview] = [nothing, *buffers]
        # Field access through a cast view is three times as fast as struct, and one
        # aligned load or store, which ring indices need. Both hosts are little-endian.
        self._u16: list[memoryview[Any]] = [nothing, *(buffer.cast("H") for buffer in buffers)]
        self._u32: list[memoryview[Any]] = [nothing, *(buffer.cast("I") for buffer in buffers)]
        self._u64: list[memoryview[Any]] = [nothing, *(buffer.cast("Q") for buffer in buffers)]
        spans: list[list[int]] = []
        for region in regions:
            if spans and spans[-1][1] == region.gpa:
                spans[-1][1] = region.end
            else:
                spans.append([region.gpa, region.end])
        self._span_bases = [base for base, _ in spans]
        self._span_ends = [0, *(end for _, end in spans)]
        self._extent = ", ".join(f"{base:#x}-{end - 1:#x}" for base, end in spans)

    def close(self) -> None:
        """Close every host object; may be called again. From then on every access is refused."""
        hosts = {id(region.host): region.host for region in self.regions}
        self.regions = ()
        self.size = 0
        self._index([])
        for host in hosts.values():
            host.close()

    def ram_spans(self) -> list[tuple[int, int]]:
        """Writable memory as ``(first, end)``, ascending, adjacent regions joined; *end* is exclusive."""
        spans: list[tuple[int, int]] = []
        for region in self.regions:
            if region.readonly:
                continue
            if spans and spans[-1][1] == region.gpa:
                spans[-1] = (spans[-1][0], region.end)
            else:
                spans.append((region.gpa, region.end))
        return spans

    def contains(self, gpa: int, size: int) -> bool:
        """Whether all *size* bytes at *gpa* are memory, seams between regions included."""
        index = bisect_right(self._span_bases, gpa)
        return index > 0 and size > 0 and gpa + size <= self._span_ends[index]

    def view(self, gpa: int, size: int, write: bool = False) -> memoryview:
        """The bytes themselves, not a copy. They must lie in one region; see ``views``.

        With *write*, a read-only region is refused; without, its view is read-only.
        Raises GuestMemoryError.
        """
        index = bisect_right(self._bases, gpa)
        if index and size > 0 and gpa + size <= (self._write_ends if write else self._ends)[index]:
            offset = gpa - self._starts[index]
            return self._u8[index][offset : offset + size]
        raise self._refusal(gpa, size, write)

    def views(self, gpa: int, size: int, write: bool = False) -> list[memoryview]:
        """The bytes as views in order, one a region: for readv, writev and copies across seams.

        Raises GuestMemoryError as ``view`` does, for a gap anywhere in the range too.
        """
        ends = self._write_ends if write else self._ends
        starts = self._starts
        end = gpa + size
        index = bisect_right(self._bases, gpa)
        if not index or size <= 0:
            raise self._refusal(gpa, size, write)
        found = []
        at = gpa
        while at < end:
            if index == len(ends) or not starts[index] <= at < ends[index]:
                raise self._refusal(gpa, size, write)
            stop = min(end, ends[index])
            found.append(self._u8[index][at - starts[index] : stop - starts[index]])
            at = stop
            index += 1
        return found

    def read(self, gpa: int, size: int) -> bytes:
        """A copy of *size* bytes. The caller bounds a size that the guest chose. Raises GuestMemoryError."""
        index = bisect_right(self._bases, gpa)
        if index and size > 0 and gpa + size <= self._ends[index]:
            offset = gpa - self._starts[index]
            return self._u8[index][offset : offset + size].tobytes()
        return b"".join(self.views(gpa, size))

    def write(self, gpa: int, data: Buffer) -> None:
        """Copy *data* to *gpa*: all of it, or GuestMemoryError and nothing."""
        source = memoryview(data)
        if source.format != "B" or source.ndim != 1:
            source = source.cast("B")
        size = source.nbytes
        index = bisect_right(self._bases, gpa)
        if index and size and gpa + size <= self._write_ends[index]:
            offset = gpa - self._starts[index]
            self._u8[index][offset : offset + size] = source
            return
        at = 0
        for view in self.views(gpa, size, True):
            view[:] = source[at : at + view.nbytes]
            at += view.nbytes

    def discard(self, gpa: int, size: int) -> int:
        """Return the whole pages within the range to the host; they read as zeroes or as they were.

        Returns how many bytes that are. Raises GuestMemoryError, before anything is returned, for a range
        that could not be written: outside memory, or in a ROM.
        """
        if not self.contains(gpa, size):
            raise self._refusal(gpa, size, True)
        end = gpa + size
        touched = [region for region in self.regions if region.gpa < end and gpa < region.end]
        if any(region.readonly for region in touched):
            raise self._refusal(gpa, size, True)
        done = 0
        for region in touched:
            start, stop = max(gpa, region.gpa), min(end, region.end)
            done += region.host.discard(region.offset + start - region.gpa, stop - start)
        return done

    def locate(self, view: memoryview) -> int:
        """The guest address of the first byte of *view*, which ``view`` or ``views`` gave.

        Raises GuestMemoryError for a view of something else.
        """
        address = address_of(view)
        for region in self.regions:
            if 0 <= address - region.address < region.size:
                return region.gpa + address - region.address
        raise GuestMemoryError(f"the host address {address:#x} is none of guest memory")

    def translate(self, gpa: int) -> int:
        """The host virtual address of the byte at *gpa*. Raises GuestMemoryError."""
        index = bisect_right(self._bases, gpa)
        if index and gpa < self._ends[index]:
            return self.regions[index - 1].address + gpa - self._starts[index]
        raise self._refusal(gpa, 1, False)

    # Fixed widths, little-endian. An aligned access is one load or store. It cannot
    # cross a region's end, since regions are whole pages; others take the general way.

    def read_u8(self, gpa: int) -> int:
        """The byte at *gpa*. Raises GuestMemoryError."""
        index = bisect_right(self._bases, gpa)
        if index and gpa < self._ends[index]:
            return self._u8[index][gpa - self._starts[index]]
        raise self._refusal(gpa, 1, False)

    def read_u16(self, gpa: int) -> int:
        """The two bytes at *gpa*, at best aligned. Raises GuestMemoryError."""
        index = bisect_right(self._bases, gpa)
        if index and not gpa & 1 and gpa < self._ends[index]:
            value: int = self._u16[index][gpa - self._starts[index] >> 1]
            return value
        return int.from_bytes(self.read(gpa, 2), "little")

    def read_u32(self, gpa: int) -> int:
        """The four bytes at *gpa*, at best aligned. Raises GuestMemoryError."""
        index = bisect_right(self._bases, gpa)
        if index and not gpa & 3 and gpa < self._ends[index]:
            value: int = self._u32[index][gpa - self._starts[index] >> 2]
            return value
        return int.from_bytes(self.read(gpa, 4), "little")

    def read_u64(self, gpa: int) -> int:
        """The eight bytes at *gpa*, at best aligned. Raises GuestMemoryError."""
        index = bisect_right(self._bases, gpa)
        if index and not gpa & 7 and gpa < self._ends[index]:
            value: int = self._u64[index][gpa - self._starts[index] >> 3]
            return value
        return int.from_bytes(self.read(gpa, 8), "little")

    def write_u8(self, gpa: int, value: int) -> None:
        """Store *value*, below 2**8, at *gpa*. Raises GuestMemoryError, and ValueError for another value."""
        index = bisect_right(self._bases, gpa)
        if index and gpa < self._write_ends[index]:
            self._u8[index][gpa - self._starts[index]] = value
        else:
            raise self._refusal(gpa, 1, True)

    def write_u16(self, gpa: int, value: int) -> None:
        """Store *value*, below 2**16, at *gpa*. Raises GuestMemoryError, and ValueError for another value."""
        index = bisect_right(self._bases, gpa)
        if index and not gpa & 1 and gpa < self._write_ends[index]:
            self._u16[index][gpa - self._starts[index] >> 1] = value
        else:
            self._write_number(gpa, 2, value)

    def write_u32(self, gpa: int, value: int) -> None:
        """Store *value*, below 2**32, at *gpa*. Raises GuestMemoryError, and ValueError for another value."""
        index = bisect_right(self._bases, gpa)
        if index and not gpa & 3 and gpa < self._write_ends[index]:
            self._u32[index][gpa - self._starts[index] >> 2] = value
        else:
            self._write_number(gpa, 4, value)

    def write_u64(self, gpa: int, value: int) -> None:
        """Store *value*, below 2**64, at *gpa*. Raises GuestMemoryError, and ValueError for another value."""
        index = bisect_right(self._bases, gpa)
        if index and not gpa & 7 and gpa < self._write_ends[index]:
            self._u64[index][gpa - self._starts[index] >> 3] = value
        else:
            self._write_number(gpa, 8, value)

    def _write_number(self, gpa: int, size: int, value: int) -> None:
        if value >> 8 * size:  # of a negative value this is negative, so true
            raise ValueError(f"{value:#x} does not fit into {size} bytes")
        self.write(gpa, value.to_bytes(size, "little"))

    def _refusal(self, gpa: int, size: int, write: bool) -> GuestMemoryError:
        """The error for an access no region took."""
        verb = "written" if write else "read"
        if size <= 0:
            return GuestMemoryError(
                f"{size} bytes at guest address {gpa:#x} cannot be {verb}; an access has at least one byte"
            )
        if not self.contains(gpa, size):
            why = f"guest memory is {self._extent}" if self.regions else "guest memory is closed"
        elif write and any(r.readonly and r.gpa < gpa + size and gpa < r.end for r in self.regions):
            why = "it is read-only, at least in part"
        else:
            why = "it crosses the seam of two regions and was asked for as one view"
        return GuestMemoryError(f"{size:#x} bytes at guest address {gpa:#x} cannot be {verb}: {why}")
