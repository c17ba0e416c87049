"""One request: a descriptor chain, checked, as views of guest memory. Section 2.7.13."""

from __future__ import annotations

from pyvmm.memory.views import cut, rest
from pyvmm.virtio.errors import ChainError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Buffer

    from pyvmm.memory.vector import Vector

#: A chain may be no longer than this in bytes (2.7.4).
MAX_CHAIN_BYTES = (1 << 32) - 1


class Chain:
    """What the driver made available at once: device-readable buffers, then device-writable ones.

    ``readable`` and ``writable`` are views of guest memory in order, none of them empty. The
    guest can change their bytes at any time: read what decides something once, by ``read``, and
    check the copy. ``read`` and ``write`` each go on where the last one ended.
    """

    __slots__ = ("_reading", "head", "readable", "writable", "written")
    #: The middle buffers as iovecs, where the chain is an IndirectChain.
    vector: Vector | None = None

    def __init__(self, head: int, readable: list[memoryview], writable: list[memoryview]) -> None:
        #: The index of its first descriptor, which the used ring names it by.
        self.head = head
        self.readable = readable
        self.writable = writable
        #: Bytes written so far, and the length the driver is told. Who fills ``rest_writable`` adds to it.
        self.written = 0
        self._reading = 0

    @property
    def readable_size(self) -> int:
        """Bytes the driver gave to read, less than 2**32."""
        return sum(view.nbytes for view in self.readable)

    @property
    def writable_size(self) -> int:
        """Bytes the driver gave to be written, less than 2**32."""
        return sum(view.nbytes for view in self.writable)

    def read(self, size: int) -> bytes:
        """The next *size* bytes, a copy. Raises ChainError when there are fewer."""
        views = self.readable
        if not self._reading and views and size <= views[0].nbytes:
            self._reading = size
            return views[0][:size].tobytes()
        parts = cut(rest(views, self._reading), size)
        if sum(map(len, parts)) < size:
            left = self.readable_size - self._reading
            raise ChainError(
                f"the driver gave {left} bytes where the device reads {size}; it must give a whole request"
            )
        self._reading += size
        return b"".join(parts)

    def read_rest(self, limit: int) -> bytes:
        """All bytes not read yet, a copy. Raises ChainError for more than *limit*, the device's own bound."""
        left = self.readable_size - self._reading
        if left > limit:
            raise ChainError(
                f"the driver gave {left} bytes where the device takes {limit}; it must send less at once"
            )
        return self.read(left)

    def skip(self, size: int) -> None:
        """Skip *size* readable bytes. Raises ChainError when there are fewer."""
        left = self.readable_size - self._reading
        if size > left:
            raise ChainError(f"the driver gave {left} bytes where {size} are to be passed over")
        self._reading += size

    def write(self, data: Buffer) -> int:
        """Write *data* behind what was written; returns how many bytes of it fitted."""
        at, views = self.written, self.writable
        if not at and type(data) is bytes and views and len(data) <= views[0].nbytes:
            size = self.written = len(data)
            views[0][:size] = data
            return size
        source = memoryview(data).cast("B")
        done, size = 0, source.nbytes
        for view in views:
            room = view.nbytes
            if at >= room:
                at -= room
                continue
            part = min(room - at, size - done)
            view[at : at + part] = source[done : done + part]
            done += part
            at = 0
            if done == size:
                break
        self.written += done
        return done

    def rest_readable(self) -> list[memoryview]:
        """Views of what was not read yet, for writev and its like."""
        return rest(self.readable, self._reading)

    def rest_writable(self) -> list[memoryview]:
        """Views of what was not written yet, for readv and its like: add the bytes read to ``written``."""
        return rest(self.writable, self.written)
