"""A disk served by another process over a socket, as a client of the NBD protocol.

Source: NetworkBlockDevice doc/proto.md: fixed newstyle handshake, simple replies. One request is under way
at a time.
"""

from __future__ import annotations

import errno
import os
from struct import Struct

from pyvmm.backends.disk.base import SECTOR, Disk, DiskError
from pyvmm.memory.views import cut, rest

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from pyvmm.backends.disk.base import Views

_NBDMAGIC = int.from_bytes(b"NBDMAGIC", "big")
_IHAVEOPT = int.from_bytes(b"IHAVEOPT", "big")
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPT_EXPORT_NAME = 1

# Transmission flags
_READ_ONLY = 1 << 1
_SEND_FLUSH = 1 << 2
_SEND_FUA = 1 << 3
_SEND_TRIM = 1 << 5
_SEND_WRITE_ZEROES = 1 << 6

# Commands and their flags
_READ, _WRITE, _DISC, _FLUSH, _TRIM, _WRITE_ZEROES = 0, 1, 2, 3, 4, 6
_FUA, _NO_HOLE = 1, 2

_REQUEST_MAGIC = 0x25609513
_REPLY_MAGIC = 0x67446698

_GREETING = Struct(">QQH")
_OPTION = Struct(">IQII")
_EXPORT = Struct(">QH")
_REQUEST = Struct(">IHHQQI")
_REPLY = Struct(">IIQ")

#: The most bytes of one request that every server takes.
_LIMIT = 32 << 20
#: Views passed to the kernel at once; IOV_MAX is 1024.
_VIEWS = 512


class NbdDisk(Disk):
    """The default export of the server at the other end of *link*, a connected socket, which it closes.

    :param block_size: bytes of the guest's blocks, a power of two from 512

    Raises DiskError when the other end does not speak NBD, and OSError when it disconnects. All methods that
    touch the image raise OSError: the server's error, or EIO and EPROTO, after which it is disconnected.
    """

    def __init__(self, link: socket.socket, path: str, block_size: int = SECTOR) -> None:
        self.path = path
        self.block_size = block_size
        self.physical_block_size = max(self.physical_block_size, block_size)
        self._link: socket.socket | None = link
        self._handle = 0
        try:
            self.size, self._flags = self._handshake()
        except BaseException:
            link.close()
            raise
        self.readonly = bool(self._flags & _READ_ONLY)

    def read(self, views: Views, offset: int, size: int) -> None:
        """Fill *views*."""
        views = list(views)
        for start in range(0, size, _LIMIT):
            part = min(size - start, _LIMIT)
            self._request(_READ, 0, offset + start, part, into=cut(rest(views, start), part))

    def write(self, views: Views, offset: int, size: int, durable: bool) -> None:
        """Write *views*."""
        views = list(views)
        for start in range(0, size, _LIMIT):
            part = min(size - start, _LIMIT)
            data = cut(rest(views, start), part)
            self._request(_WRITE, self._durably(durable), offset + start, part, data)
        self._flush_unless_fua(durable)

    def flush(self) -> None:
        """Send NBD_CMD_FLUSH."""
        if self._flags & _SEND_FLUSH:
            self._request(_FLUSH, 0, 0, 0)

    def discard(self, offset: int, size: int) -> None:
        """Send NBD_CMD_TRIM. Raises OSError EOPNOTSUPP where the server has no such command."""
        if not self._flags & _SEND_TRIM:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        for start in range(0, size, _LIMIT):
            self._request(_TRIM, 0, offset + start, min(size - start, _LIMIT))

    def write_zeroes(self, offset: int, size: int, unmap: bool, durable: bool) -> None:
        """Send NBD_CMD_WRITE_ZEROES, or zeroes where the server has no such command."""
        flags = (0 if unmap else _NO_HOLE) | self._durably(durable)
        for start in range(0, size, _LIMIT):
            part = min(size - start, _LIMIT)
            if self._flags & _SEND_WRITE_ZEROES:
                self._request(_WRITE_ZEROES, flags, offset + start, part)
            else:
                self._request(_WRITE, flags & _FUA, offset + start, part, [memoryview(bytes(part))])
        self._flush_unless_fua(durable)

    def describe(self) -> str:
        """The path, as ``nbd PATH``."""
        return f"nbd {self.path}"

    def close(self) -> None:
        """Send NBD_CMD_DISC and disconnect; the server writes everything to its image then."""
        link, self._link = self._link, None
        if link is None:
            return
        try:
            link.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _DISC, 0, 0, 0))
        except OSError:
            pass  # the server disconnected first
        link.close()

    def _handshake(self) -> tuple[int, int]:
        """(size, transmission flags) of the export."""
        magic, version, flags = _GREETING.unpack(self._receive(_GREETING.size))
        if magic != _NBDMAGIC or version != _IHAVEOPT or not flags & _FIXED_NEWSTYLE:
            raise DiskError(f"disk {self.path}: its server does not speak the newstyle NBD protocol")
        assert self._link is not None
        reply = _FIXED_NEWSTYLE | flags & _NO_ZEROES
        self._link.sendall(_OPTION.pack(reply, _IHAVEOPT, _OPT_EXPORT_NAME, 0))
        size, transmission = _EXPORT.unpack(self._receive(_EXPORT.size))
        if not flags & _NO_ZEROES:
            self._receive(124)
        if not size or size % self.block_size:
            raise DiskError(
                f"disk {self.path} has {size} bytes, which is no multiple of {self.block_size}; make it "
                "larger (qemu-img resize)"
            )
        return size, transmission

    def _durably(self, durable: bool) -> int:
        return _FUA if durable and self._flags & _SEND_FUA else 0

    def _flush_unless_fua(self, durable: bool) -> None:
        if durable and not self._flags & _SEND_FUA:
            self.flush()

    def _request(
        self,
        command: int,
        flags: int,
        offset: int,
        size: int,
        data: Sequence[memoryview] = (),
        into: Sequence[memoryview] = (),
    ) -> None:
        self._handle += 1
        head = _REQUEST.pack(_REQUEST_MAGIC, flags, command, self._handle, offset, size)
        try:
            self._send([memoryview(head), *data])
            magic, problem, handle = _REPLY.unpack(self._receive(_REPLY.size))
            if magic != _REPLY_MAGIC or handle != self._handle:
                raise OSError(errno.EPROTO, "its server sent a reply to no request")
            if not problem:
                self._fill(list(into))
        except OSError:
            self._disconnect()  # where in the stream the next reply begins is unknown
            raise
        if problem:
            raise OSError(problem, os.strerror(problem))

    def _disconnect(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _peer(self) -> socket.socket:
        if self._link is None:
            raise OSError(errno.EIO, "its server is gone")
        return self._link

    def _send(self, views: list[memoryview]) -> None:
        link = self._peer()
        while views:
            views = rest(views, link.sendmsg(views[:_VIEWS]))

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        self._fill([memoryview(data)])
        return bytes(data)

    def _fill(self, views: list[memoryview]) -> None:
        link = self._peer()
        while views:
            got = link.recvmsg_into(views[:_VIEWS])[0]
            if not got:
                raise OSError(errno.EIO, "its server has disconnected")
            views = rest(views, got)
