"""Transfers past the host's page cache that the kernel refuses as they are: O_DIRECT wants offsets, sizes and
addresses that are multiples of the medium's block size (open(2)). They go through a buffer of ours.
"""

from __future__ import annotations

import errno
import os
from threading import Condition

from pyvmm.backends.disk.base import BUFFER, SECTOR
from pyvmm.memory.views import cut, rest

_PAGE = 4096


class AlignedFile:
    """The image open as *fd* with O_DIRECT, which takes whole blocks of *unit* bytes. Any thread."""

    def __init__(self, fd: int, unit: int) -> None:
        self._fd = fd
        self._unit = unit
        self._gate = WriteGate()

    def begin_write(self, offset: int, size: int) -> None:
        """Wait until *size* bytes at *offset* may be written: before every write; ``end_write`` after it."""
        if self._unit > SECTOR:  # else no guest writes parts of a block
            self._gate.enter(self._whole(offset, size))

    def end_write(self, offset: int, size: int) -> None:
        """That write is over."""
        if self._unit > SECTOR:
            self._gate.leave(self._whole(offset, size))

    def read(self, views: list[memoryview], offset: int, size: int, end: int) -> None:
        """Fill *views* with the *size* bytes at *offset*; those from *end* on, the image's end, are zeroes.

        Raises OSError.
        """
        last = offset + size
        with _buffer(size + 2 * self._unit) as buffer:
            for at in self._pieces(offset, size, len(buffer)):
                part = buffer[: self._up(last) - at]
                self._fill(part, at, end)
                skip = max(offset - at, 0)
                self._scatter(part[skip : last - at], rest(views, max(at - offset, 0)))

    def write(self, views: list[memoryview], offset: int, size: int, flags: int) -> None:
        """Write *views*, with the RWF_ *flags* of pwritev2(2); the rest of their blocks is read before.

        After ``begin_write``. Raises OSError.
        """
        last = offset + size
        with _buffer(size + 2 * self._unit) as buffer:
            for at in self._pieces(offset, size, len(buffer)):
                part = buffer[: self._up(last) - at]
                skip, stop = max(offset - at, 0), min(len(part), last - at)
                if not self._whole(skip, stop):
                    self._fill(part, at, at + len(part))
                self._gather(part[skip:stop], rest(views, max(at - offset, 0)))
                if os.pwritev(self._fd, [part], at, flags) != len(part):
                    raise OSError(errno.EIO, "the image ends before the disk does")

    def _whole(self, offset: int, size: int) -> bool:
        return not (offset | size) & (self._unit - 1)

    def _pieces(self, offset: int, size: int, most: int) -> range:
        return range(offset // self._unit * self._unit, self._up(offset + size), most)

    def _up(self, offset: int) -> int:
        return -(-offset // self._unit) * self._unit

    def _fill(self, part: memoryview, at: int, end: int) -> None:
        done = os.preadv(self._fd, [part], at)
        if done < len(part):
            if at + done < end:
                raise OSError(errno.EIO, "the image ends before the disk does")
            part[done:] = bytes(len(part) - done)

    @staticmethod
    def _scatter(part: memoryview, places: list[memoryview]) -> None:
        at = 0
        for place in cut(places, len(part)):
            place[:] = part[at : at + len(place)]
            at += len(place)

    @staticmethod
    def _gather(part: memoryview, places: list[memoryview]) -> None:
        at = 0
        for place in cut(places, len(part)):
            part[at : at + len(place)] = place
            at += len(place)


class WriteGate:
    """Keeps writes of whole blocks, of which many may be under way, from those of parts, which are alone.

    A part is written by reading its block, changing it and writing it: a write between the two would be lost.
    """

    def __init__(self) -> None:
        self._change = Condition()
        self._under_way = 0
        self._parts = 0  # under way or waiting

    def enter(self, whole: bool) -> None:
        """Wait until a write of whole blocks, or of parts, may begin."""
        with self._change:
            if whole:
                self._change.wait_for(lambda: not self._parts)
            else:
                self._parts += 1
                self._change.wait_for(lambda: not self._under_way)
            self._under_way += 1

    def leave(self, whole: bool) -> None:
        """A write is over."""
        with self._change:
            self._under_way -= 1
            self._parts -= not whole
            if not self._under_way:
                self._change.notify_all()


def _buffer(size: int) -> memoryview:
    import mmap

    return memoryview(mmap.mmap(-1, min(BUFFER, -(-size // _PAGE) * _PAGE)))
