"""Guest memory that a vhost-user front end shows us: its regions mapped, its addresses translated.

Source: QEMU docs/interop/vhost-user.rst, "Memory access". Nothing in a table is believed.
"""

from __future__ import annotations

import mmap
import os
import stat

from pyvmm.errors import PyvmmError
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import MAP_NORESERVE, HostMemory
from pyvmm.virtio.vhost import user_protocol as p


class MappedFile(HostMemory):
    """The first *size* bytes of file *fd*, which stays the caller's.

    Mapped from the start: huge pages refuse an offset that is no multiple of theirs. Who holds the file
    can shorten it and end this process with SIGBUS: that is the front end's own device.
    Raises ProtocolError for what cannot be mapped.
    """

    __slots__ = ()
    kind = "shared"

    def __init__(self, fd: int, size: int) -> None:
        try:
            status = os.fstat(fd)
        except OSError as error:
            raise p.ProtocolError(f"a memory region's file tells no size: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode) or status.st_size < size:
            raise p.ProtocolError(
                f"a memory region ends at {size:#x} of what is no file, or one of {status.st_size:#x}"
            )
        try:
            mapping = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | MAP_NORESERVE)
        except (OSError, ValueError, OverflowError) as error:
            raise p.ProtocolError(f"a memory region of {size:#x} bytes cannot be mapped: {error}") from None
        super().__init__(mapping, size)


class SharedMemory:
    """The regions of one SET_MEM_TABLE message. Raises ProtocolError for a table that breaks a rule."""

    def __init__(self, message: p.Message) -> None:
        rows = _rows(message)
        #: (user address, bytes, guest address) of each region.
        self._users = [(user, size, guest) for guest, size, user, _ in rows]
        regions: list[Region] = []
        try:
            for (guest, size, _, offset), fd in zip(rows, message.fds, strict=True):
                host = MappedFile(fd, offset + size)
                try:
                    regions.append(Region(guest, size, host, offset, name=f"region {guest:#x}"))
                except BaseException:
                    host.close()
                    raise
            self.guest = GuestMemory(regions)
        except PyvmmError as error:
            for region in regions:
                region.host.close()
            raise p.ProtocolError(f"SET_MEM_TABLE: {error}") from None

    def guest_address(self, user: int) -> int:
        """The guest's address for the front end's *user* address. Raises ProtocolError."""
        for start, size, guest in self._users:
            if start <= user < start + size:
                return guest + user - start
        raise p.ProtocolError(f"a ring lies at {user:#x}, which is in no memory region")

    def close(self) -> None:
        """Give the mappings up."""
        self.guest.close()


def _rows(message: p.Message) -> list[tuple[int, int, int, int]]:
    payload = message.payload
    count = int.from_bytes(payload[:4], "little")
    least = p.MEM_TABLE.size + count * p.MEM_REGION.size
    most = p.MEM_TABLE.size + p.MAX_REGIONS * p.MEM_REGION.size
    if not 0 < count <= p.MAX_REGIONS or not least <= len(payload) <= most or len(message.fds) != count:
        raise p.ProtocolError(
            f"SET_MEM_TABLE has {count} regions in {len(payload)} bytes, and {len(message.fds)} files; "
            f"1 to {p.MAX_REGIONS} regions are allowed, with a file each"
        )
    rows = list(p.MEM_REGION.iter_unpack(payload[p.MEM_TABLE.size : least]))
    for _, size, user, offset in rows:
        if user + size > 1 << 64 or offset + size >= 1 << 63:
            raise p.ProtocolError(f"a memory region of {size:#x} bytes at {user:#x}, {offset:#x} overflows")
    return rows
