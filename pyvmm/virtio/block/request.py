"""What a driver asks of a block device: numbers, and a chain taken apart. Section 5.2.6."""

from __future__ import annotations

from struct import Struct

from pyvmm.virtio.errors import ChainError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory.vector import Vector
    from pyvmm.virtio.ring.chain import Chain
    from pyvmm.virtio.ring.indirect import IndirectChain

# Feature bits (5.2.3)
F_SEG_MAX = 1 << 2
F_RO = 1 << 5
F_BLK_SIZE = 1 << 6
F_FLUSH = 1 << 9
F_TOPOLOGY = 1 << 10
F_CONFIG_WCE = 1 << 11
F_MQ = 1 << 12
F_DISCARD = 1 << 13
F_WRITE_ZEROES = 1 << 14

# Request types
IN = 0
OUT = 1
FLUSH = 4
GET_ID = 8
DISCARD = 11
WRITE_ZEROES = 13
#: What a request without a whole header is taken for.
NO_HEADER = -1

# Status
OK = 0
IOERR = 1
UNSUPP = 2

#: Flag of a segment of WRITE_ZEROES.
UNMAP = 1

#: Bytes of the answer to GET_ID.
ID_SIZE = 20

#: struct virtio_blk_config (5.2.4), as far as it belongs to features offered here.
CONFIG_FIELDS = {
    "capacity": "u64",
    "size_max": "u32",
    "seg_max": "u32",
    "cylinders": "u16",
    "heads": "u8",
    "sectors": "u8",
    "blk_size": "u32",
    "physical_block_exp": "u8",
    "alignment_offset": "u8",
    "min_io_size": "u16",
    "opt_io_size": "u32",
    "writeback": "u8",
    "unused0": "u8",
    "num_queues": "u16",
    "max_discard_sectors": "u32",
    "max_discard_seg": "u32",
    "discard_sector_alignment": "u32",
    "max_write_zeroes_sectors": "u32",
    "max_write_zeroes_seg": "u32",
    "write_zeroes_may_unmap": "u8",
    "unused1": "bytes3",
}

#: type, reserved, sector.
_HEADER = Struct("<IIQ")
_HEADER_SIZE = 16
_unpack = _HEADER.unpack
#: sector, num_sectors, flags.
SEGMENT = Struct("<QII")


class BlockRequest:
    """A chain as a request: what it is, and where its data and its status go.

    The header is a copy, which the guest cannot change. ``data`` is ``size`` bytes of guest memory: those to
    write to the disk, or for IN and GET_ID those to fill. Where it is a Vector, it is ``vector``, too. Raises
    ChainError for a chain without a writable byte.
    """

    __slots__ = ("chain", "data", "kind", "room", "sector", "size", "status", "vector")

    chain: Chain
    data: list[memoryview] | Vector
    vector: Vector | None

    def __init__(self, chain: Chain) -> None:
        if chain.vector is not None and self._by_vector(chain):  # type: ignore[arg-type]
            return
        self.vector = None
        writable = chain.writable
        if not writable:
            raise ChainError("a block request has no room for its status (5.2.6)")
        readable = chain.readable
        self.chain = chain
        #: The device's answer: one byte, the last one of the chain.
        last = writable[-1]
        if len(last) == 1:
            self.status = last
            writable = writable[:-1]
        else:
            self.status = last[-1:]
            writable = [*writable[:-1], last[:-1]]
        if readable and len(readable[0]) == _HEADER_SIZE:
            self.kind, _, self.sector = _unpack(readable[0])
            readable = readable[1:]
        elif chain.readable_size >= _HEADER_SIZE:
            self.kind, _, self.sector = _unpack(chain.read(_HEADER_SIZE))
            readable = chain.rest_readable()
        else:
            self.kind, self.sector = NO_HEADER, 0
        filled = self.kind == IN or self.kind == GET_ID
        self.data = writable if filled else readable
        self.size = len(self.data[0]) if len(self.data) == 1 else sum(map(len, self.data))
        #: The used length: bytes of data and status.
        self.room = self.size + 1 if filled else sum(map(len, writable)) + 1

    def _by_vector(self, chain: IndirectChain) -> bool:
        """Take *chain* apart without a view of each buffer; False when its form is another one."""
        if len(chain.first) != _HEADER_SIZE or len(chain.last) != 1:
            return False
        self.kind, _, self.sector = _unpack(chain.first)
        if self.kind != (IN if chain.filled else OUT):
            return False
        self.chain = chain
        self.data = self.vector = chain.vector
        self.size = chain.vector.size
        self.status = chain.last
        self.room = self.size + 1 if chain.filled else 1
        return True


def segments(data: bytes) -> list[tuple[int, int, int]]:
    """The (sector, num_sectors, flags) of a DISCARD or WRITE_ZEROES. *data* is whole segments."""
    return list(SEGMENT.iter_unpack(data))
