"""Many pieces of host memory as an array of struct iovec, for readv(2) and the like."""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# struct iovec (<sys/uio.h>): void *iov_base; size_t iov_len;
_iovec = Struct("=QQ")


class Vector:
    """Pieces of *ram*, a view whose first byte is at host address *start*.

    ``iovecs`` is the array, ``size`` the bytes of all pieces, ``len`` their number. The vector keeps the
    memory mapped: hold it while the host's kernel uses the array. Iteration gives a view of each piece that
    is not empty.
    """

    __slots__ = ("_ram", "_start", "iovecs", "size")

    def __init__(self, iovecs: bytes, size: int, ram: memoryview, start: int) -> None:
        self.iovecs = iovecs
        self.size = size
        self._ram = ram
        self._start = start

    def __len__(self) -> int:
        return len(self.iovecs) // _iovec.size

    def __iter__(self) -> Iterator[memoryview]:
        ram, start = self._ram, self._start
        for base, size in _iovec.iter_unpack(self.iovecs):
            if size:
                yield ram[base - start : base - start + size]

    def join(self, others: list[Vector]) -> Vector:
        """This one and, behind it, *others* of the same memory."""
        every = [self, *others]
        iovecs = b"".join([vector.iovecs for vector in every])
        return Vector(iovecs, sum([vector.size for vector in every]), self._ram, self._start)
