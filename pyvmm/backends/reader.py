"""A backend's input: a file descriptor that is read only as fast as the device accepts it."""

from __future__ import annotations

import os

from pyvmm.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.loop import Loop

#: Bytes a read takes at least, and at most where the device has room for more.
_CHUNK = 4096
_LARGEST = 64 << 10


class DescriptorReader:
    """Reads one file descriptor and calls ``receive`` with at most the bytes that ``space`` allows.

    The rest, and what ``receive`` returned False for, is buffered; until it is delivered the descriptor is
    not read, so that its writer blocks and nothing is lost. *on_end* is called when there is no more input:
    end of file, hang-up, error.

    With *sift*, all input passes through ``sift(data) -> data`` at once: a terminal looks for its escape key
    also while the guest reads nothing. Reading then never stops, and what exceeds *limit* bytes is dropped
    and counted in ``dropped``.
    """

    def __init__(
        self,
        loop: Loop,
        receive: Callable[[bytes], object],
        space: Callable[[], int],
        on_end: Callable[[], object] | None = None,
        sift: Callable[[bytes], bytes] | None = None,
        limit: int = 1 << 20,
    ) -> None:
        self._loop = loop
        self._receive = receive
        self._space = space
        self._on_end = on_end
        self._sift = sift
        self._limit = limit
        self._waiting = bytearray()
        self._fd = -1
        self._watched = False
        self.dropped = 0

    def serve(self, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        """Give input to another device from now on: what is buffered, too. Loop's thread."""
        self._receive, self._space = receive, space
        self.resume()

    def unread(self, data: bytes) -> None:
        """Buffer *data* before what is buffered: a device took it and did not use it. Loop's thread."""
        self._waiting[:0] = data

    def take_back(self) -> bytes:
        """Stop for good; returns what is buffered. Loop's thread."""
        self.close()
        left = bytes(self._waiting)
        self._waiting.clear()
        return left

    def open(self, fd: int) -> None:
        """Read *fd* from now on; the caller closes it. Loop's thread."""
        self._fd = fd
        self._watch(True)

    def close(self) -> None:
        """Stop reading; what is buffered is still delivered. Loop's thread. Idempotent."""
        if self._fd >= 0:
            self._watch(False)
            self._fd = -1

    def resume(self) -> None:
        """The device has room again. Any thread."""
        self._loop.call_soon(self._pump)

    def _watch(self, on: bool) -> None:
        if on and not self._watched:
            self._loop.add(self._fd, READ, self._readable)
        elif self._watched and not on:
            self._loop.remove(self._fd)
        self._watched = on

    def _readable(self, events: int) -> None:
        size = _CHUNK
        if self._sift is None:
            room = 0 if self._waiting else self._space()
            if room <= 0:
                self._watch(False)  # left in the kernel's buffer until resume
                return
            size = min(max(room, _CHUNK), _LARGEST)
        try:
            data = os.read(self._fd, size)
        except BlockingIOError:
            return
        except OSError:  # a terminal or pty that hung up: EIO
            data = b""
        if not data:
            self.close()
            if self._on_end is not None:
                self._on_end()
            return
        if self._sift is not None:
            data = self._sift(data)
            room = max(0, self._limit - len(self._waiting))
            self.dropped += max(0, len(data) - room)
            data = data[:room]
        self._waiting += data
        self._pump()

    def _pump(self) -> None:
        while self._waiting:
            room = self._space()
            if room <= 0:
                break
            if self._receive(bytes(self._waiting[:room])) is False:
                break
            del self._waiting[:room]
        if self._fd >= 0:
            self._watch(not self._waiting or self._sift is not None)
