"""A disk for ``--device``: every other page is not in the cache, and every write blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.backends.disk.raw import RawDisk
from pyvmm.virtio.block.device import Block

if TYPE_CHECKING:
    from pyvmm.backends.disk.base import Views


class HesitantImage(RawDisk):
    """An image on a medium, whatever it lies on."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.in_memory, self.nonblocking_reads = False, True

    def read_now(self, views: Views, offset: int, size: int) -> bool:
        return offset >> 12 & 1 == 0 and super().read_now(views, offset, size)


class HesitantDisk(Block):
    """The device."""

    def __init__(self, path: str) -> None:
        super().__init__(HesitantImage(path), serial="hesitant")
