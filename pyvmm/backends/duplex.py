"""A backend over file descriptors: a reader for its input, a writer for its output."""

from __future__ import annotations

from pyvmm.backends.base import CharBackend
from pyvmm.backends.reader import DescriptorReader
from pyvmm.backends.writer import DescriptorWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Duplex(CharBackend):
    """A backend over file descriptors. A subclass opens and closes them; its ``attach`` makes ``_reader``.

    Output is dropped while the writer has no descriptor.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reader: DescriptorReader | None = None
        self._writer = DescriptorWriter(self, self._broken)

    def write(self, data: bytes) -> None:
        """Send *data*, or buffer it until the other end accepts it."""
        self._writer.write(data)

    def offer(self, views: Sequence[memoryview]) -> int:
        """Send what the other end accepts of *views* now."""
        return self._writer.offer(views)

    def resume(self) -> None:
        """The device has room for input again."""
        if self._reader is not None:
            self._reader.resume()

    def unread(self, data: bytes) -> None:
        """Give *data* to the next device before all other input."""
        if self._reader is not None:
            self._reader.unread(data)

    def _broken(self) -> None:
        """The other end of the output was closed. Loop's thread."""

    def _tell(self) -> None:
        """``connected`` has changed."""
        if self.on_connect is not None:
            self.on_connect()
