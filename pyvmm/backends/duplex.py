"""A backend over file descriptors: a reader for its input, a writer for its output."""

from __future__ import annotations

from pyvmm.backends.base import CharBackend
from pyvmm.backends.reader import DescriptorReader
from pyvmm.backends.writer import DescriptorWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.loop import Loop


#: Bytes of the length of what is left of the input.
_LENGTH = 4


class Duplex(CharBackend):
    """A backend over file descriptors. A subclass opens and closes them; its ``attach`` calls ``_begin``.

    Output is dropped while the writer has no descriptor, and while there is no machine.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loop: Loop | None = None  # of the machine
        self._reader: DescriptorReader | None = None  # while there is a machine
        self._writer = DescriptorWriter(self, self._broken)
        self._input = b""  # between two machines: what the last one's device has not taken
        self._patience = 0.0  # seconds that the end waits while the other end accepts none of the output

    def _begin(
        self,
        loop: Loop,
        receive: Callable[[bytes], object],
        space: Callable[[], int],
        on_end: Callable[[], object] | None = None,
        sift: Callable[[bytes], bytes] | None = None,
    ) -> DescriptorReader:
        """Be a machine's: make its reader, which has no descriptor yet."""
        self.open()
        self._leave()
        self._loop = loop
        reader = self._reader = DescriptorReader(loop, receive, space, on_end, sift)
        if self._input:
            reader.unread(self._input)
            self._input = b""
            reader.resume()
        return reader

    def detach(self) -> None:
        """Leave the loop; input and output that are buffered wait for the next machine."""
        self._leave()

    def drain(self) -> None:
        """Write what is buffered, as long as the other end accepts it."""
        self._writer.close(self._patience)

    def left(self) -> tuple[bytes, int]:
        """The input and the output that are buffered."""
        return len(self._input).to_bytes(_LENGTH, "little") + self._input + self._writer.buffered, -1

    def give(self, left: bytes, fd: int) -> None:
        """Input and output of the process before."""
        size = int.from_bytes(left[:_LENGTH], "little")
        self._input = left[_LENGTH : _LENGTH + size]
        self._writer.buffer(left[_LENGTH + size :])

    def _leave(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            self._input = reader.take_back()
        self._writer.detach()
        self._loop = None

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
