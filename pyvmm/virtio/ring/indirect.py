"""An indirect table (2.7.5.3) as an array of iovecs for readv(2), without a view of each buffer.

A transfer of 256 KiB has 64 buffers, and 64 views of them cost more than the transfer itself. Here a whole
table is one integer, in which each descriptor (2.7.5) is a lane of 128 bits: le64 address, le32 length,
le16 flags, le16 next. It is checked and converted to an array of struct iovec (void *base, size_t length) by
ten operations on such integers. A table of any other form is left to ``Queue.walk``.

The result depends on the table's bytes alone, and programs that use O_DIRECT use the same buffers over and
over: the last results are kept.
"""

from __future__ import annotations

from struct import Struct

from pyvmm.memory.vector import Vector
from pyvmm.virtio.ring.chain import MAX_CHAIN_BYTES, Chain
from pyvmm.virtio.ring.descriptor import NEXT, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MASK64 = (1 << 64) - 1
#: The bit of a lane at which flags and next begin.
_LINK_AT = 96
#: Numbers of lanes whose constants are kept: 50 KiB each at most for a disk, 200 KiB for any queue.
_KEPT = 16
#: Vectors that are kept: 8 KiB each at most for a disk, 32 KiB for any queue.
_VECTORS = 64
#: Guest-physical addresses are below this: the sum of two and a length stays in its lane.
_LIMIT = 1 << 63

_descriptor = Struct("<QIHH").unpack_from


class IndirectChain(Chain):
    """A chain of one readable buffer ``first``, many in ``vector``, and one writable buffer ``last``.

    ``filled`` says whether the device writes those of ``vector`` or reads them. ``readable`` and ``writable``
    are as any chain's, made when they are asked for.
    """

    __slots__ = ("filled", "first", "last", "vector")
    vector: Vector

    def __init__(self, head: int, first: memoryview, vector: Vector, last: memoryview, filled: bool) -> None:
        self.head = head
        self.written = 0
        self._reading = 0
        self.first = first
        self.vector = vector
        self.last = last
        self.filled = filled

    @property
    def readable(self) -> list[memoryview]:  # type: ignore[override]
        """Views of what the driver gave to read."""
        return [self.first] if self.filled else [self.first, *self.vector]

    @property
    def writable(self) -> list[memoryview]:  # type: ignore[override]
        """Views of what the driver gave to be written."""
        return [*self.vector, self.last] if self.filled else [self.last]


class IndirectTables:
    """Reads tables whose buffers lie in *ram*, at guest-physical address *base* and host address *start*."""

    __slots__ = ("_base", "_end", "_lanes", "_ram", "_start", "_vectors")

    def __init__(self, ram: memoryview, base: int, start: int) -> None:
        self._ram = ram
        self._base = base
        self._end = base + len(ram)
        self._start = start
        self._lanes: dict[int, Any] = {}
        # By the bytes between the first descriptor and the last: the vector, and whether it is to be filled.
        self._vectors: dict[bytes, tuple[Vector, bool]] = {}

    def chain(self, head: int, table: bytes) -> IndirectChain | None:
        """The chain of *table*, a copy of its descriptors; None when ``Queue.walk`` has to read it.

        This reads tables of one readable buffer first, one writable last, in between any number of one kind,
        all of them in the memory, and each with the descriptor behind it as its next.
        """
        base, end = self._base, self._end
        first, first_size, flags, following = _descriptor(table)
        last, last_size, last_flags, _ = _descriptor(table, len(table) - 16)
        if flags != NEXT or following != 1 or last_flags != WRITE or not first_size or not last_size:
            return None
        if not base <= first <= end - first_size or not base <= last <= end - last_size or end > _LIMIT:
            return None
        between = table[16:-16]
        found = self._vectors.get(between) or self._convert(between)
        if found is None or found[0].size + first_size + last_size > MAX_CHAIN_BYTES:
            return None
        ram = self._ram
        return IndirectChain(
            head,
            ram[first - base : first - base + first_size],
            found[0],
            ram[last - base : last - base + last_size],
            found[1],
        )

    def _convert(self, between: bytes) -> tuple[Vector, bool] | None:
        """The buffers of descriptors 1 to the last but one; whether the device writes them."""
        count = len(between) >> 4
        lanes = self._lanes.get(count) or self._prepare(count)
        links_in, links_out, link_mask, low_halves, low, low_bit, high, high_bits, shift, sizes = lanes
        number = int.from_bytes(between, "little")
        links = number & link_mask
        if links != links_in and links != links_out:
            return None
        number ^= links  # addresses and lengths alone
        address = number & low_halves
        # A lane carries into its 65th bit when its address is not below the memory's first, and when its
        # end is behind the memory's.
        if self._base and (address + low) & low_bit != low_bit:
            return None
        if (address + (number >> 64 & low_halves) + high) & high_bits:
            return None
        iovecs = (number + shift).to_bytes(count * 16, "little")
        if len(self._vectors) >= _VECTORS:
            self._vectors.clear()
        vector = Vector(iovecs, sum(sizes(between)), self._ram, self._start)
        found = self._vectors[between] = vector, links == links_in
        return found

    def _prepare(self, count: int) -> Any:
        """The constants for *count* lanes. A guest uses a few counts, over and over."""
        if len(self._lanes) >= _KEPT:
            self._lanes.clear()
        ones = int.from_bytes((1).to_bytes(16, "little") * count, "little")
        following = int.from_bytes(
            b"".join([bytes(14) + lane.to_bytes(2, "little") for lane in range(2, count + 2)]), "little"
        )
        found = self._lanes[count] = (
            following + (ones * (NEXT | WRITE) << _LINK_AT),
            following + (ones * NEXT << _LINK_AT),
            ones * 0xFFFFFFFF << _LINK_AT,
            ones * _MASK64,
            ones * (_MASK64 + 1 - self._base),
            ones << 64,
            ones * (_MASK64 - self._end),
            ones * 3 << 64,
            ones * (self._start - self._base),
            Struct("<" + count * "8xI4x").unpack_from,
        )
        return found
