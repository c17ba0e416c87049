"""What stands behind a block device: the interface of disk images."""

from __future__ import annotations

from pyvmm.backends.host_objects import HostObject
from pyvmm.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory.vector import Vector

    #: Pieces of memory in order. Many come as a Vector, which is gone through like a list.
    Views = list[memoryview] | Vector

#: The unit of a disk's size, in bytes, whatever its block size.
SECTOR = 512
#: The most views one read or write may come with: IOV_MAX of Linux (readv(2)).
MAX_VIEWS = 1024
#: Bytes that go through a buffer of ours at once: misaligned direct I/O, zeroes that must be written.
BUFFER = 1 << 20


class DiskError(StartError):
    """A disk image that cannot be used as asked for."""


class Disk(HostObject):
    """Bytes at offsets, which are whole sectors within ``size``, as sizes are.

    Making one opens the image; it needs no event loop. One thread uses it, or several read and write at once
    where it is ``parallel``. Methods that touch the image raise OSError when the host cannot: a full file
    system, a broken disk.
    """

    #: Bytes; a multiple of ``block_size``. Only ``refresh`` changes it.
    size: int
    #: The path, for messages.
    path: str
    readonly = False
    #: Whether transfers may be under way in several threads at a time.
    parallel = False
    #: Whether every transfer waits for the medium: there is no cache of the host's in between.
    direct = False
    #: Whether it is in the host's memory (tmpfs): no transfer waits for a medium.
    in_memory = False
    #: True: ``read_now`` reads what is in the host's page cache or memory, and never waits for a medium.
    #: False: it may wait, or never reads.
    nonblocking_reads = False
    #: The size of the guest's blocks, in bytes: a power of two.
    block_size = SECTOR
    #: The smallest unit that is written without reading around it, in bytes.
    physical_block_size = 4096
    #: The size of the transfers that are fastest, in bytes; 0 when it is not known.
    optimal_size = 0

    def read(self, views: Views, offset: int, size: int) -> None:
        """Fill *views*, at most MAX_VIEWS and *size* bytes in all."""
        raise NotImplementedError

    def read_now(self, views: Views, offset: int, size: int) -> bool:
        """``read`` without waiting for a medium; False when that was not possible, or not for all of it.

        *views* may then be filled in part. May wait where ``nonblocking_reads`` is false.
        """
        return False

    def write(self, views: Views, offset: int, size: int, durable: bool) -> None:
        """Write *views*, as ``read``; with *durable* it is on the medium when this returns."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write everything written so far to the medium."""
        raise NotImplementedError

    def discard(self, offset: int, size: int) -> None:
        """Deallocate what is there. OSError EOPNOTSUPP when the image cannot."""
        raise NotImplementedError

    def write_zeroes(self, offset: int, size: int, unmap: bool, durable: bool) -> None:
        """Make all of it read as zeroes; only with *unmap* may it become a hole."""
        raise NotImplementedError

    def refresh(self) -> bool:
        """Read the image's size again; True when it has changed."""
        return False

    def describe(self) -> str:
        """What it is, for messages."""
        raise NotImplementedError

    def close(self) -> None:
        """Release the image. Idempotent."""
        raise NotImplementedError
