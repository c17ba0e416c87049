"""The ways to a guest's exec server: backends of a serial port and of a virtio console's port."""

from __future__ import annotations

from collections import deque
from functools import partial
from time import monotonic

from pyvmm.backends.base import CharBackend
from pyvmm.errors import GuestError
from pyvmm.loop import TURN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.loop import Loop

#: The name of the virtio console port that the guest's init looks for.
PORT_NAME = "pyvmm.exec"
#: Bytes for a guest that reads none of them. A client has less on its way (``client.WINDOW_MAX``).
UNSENT_MAX = 4 << 20
#: Bytes from the guest that the loop has not handled yet, beyond which the guest waits.
_PENDING_MAX = 1 << 20
#: Bytes of these that are handled before the time is looked at.
_AT_ONCE = 8 << 10


class ExecChannelError(GuestError):
    """The guest does not read its exec channel."""


class ExecChannel(CharBackend):
    """One way to the guest: what a serial port or a virtio console's port sends to and receives from.

    What the guest sends goes to *receiver* in the loop's thread; what is sent to it waits until the device
    has room.
    """

    def __init__(self) -> None:
        super().__init__()
        self.receiver: Callable[[bytes], None] | None = None
        #: The loop whose thread sends and receives, from ``attach`` on.
        self.loop: Loop | None = None
        self._to_guest = bytearray()
        self._from_guest: deque[bytes] = deque()
        # Bytes of the first of them that are handled, of all since the start, and those that came.
        self._done = self._handled = self._came = 0
        self._scheduled = False
        self._held = False
        #: Bytes of a guest that were dropped, as it went on sending where it had to wait.
        self.dropped = 0

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        """Begin."""
        self.loop, self._receive, self._space = loop, receive, space

    def write(self, data: bytes) -> None:
        """From the guest, in a vCPU's thread."""
        assert self.loop is not None, "attach comes first"
        if self._pending > 2 * _PENDING_MAX:  # a serial port's guest need not look whether it may send
            self.dropped += len(data)
            return
        self._from_guest.append(data)
        self._came += len(data)
        if self._pending > _PENDING_MAX:
            self.ready = False
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._deliver)

    def send(self, data: bytes) -> None:
        """To the guest, in the loop's thread. Raises ExecChannelError for a guest that takes nothing."""
        if len(self._to_guest) + len(data) > UNSENT_MAX:
            raise ExecChannelError(
                f"the guest asks for more on its exec channel and has left {UNSENT_MAX >> 20} MiB unread"
            )
        self._to_guest += data
        self._push()

    def hold(self, held: bool) -> None:
        """Whether what comes is kept back from *receiver*: the guest waits then. Loop's thread."""
        self._held = held
        if not held and self._from_guest and not self._scheduled:
            assert self.loop is not None, "it has sent something"
            self._scheduled = True
            self.loop.call_soon(self._deliver)

    def resume(self) -> None:
        """The port has room; called by any thread."""
        assert self.loop is not None, "attach comes first"
        self.loop.call_soon(self._push)

    def _push(self) -> None:
        while self._to_guest:
            room = self._space()
            if room <= 0:
                return
            if self._receive(bytes(self._to_guest[:room])) is False:
                return
            del self._to_guest[:room]

    @property
    def _pending(self) -> int:
        return self._came - self._handled

    def _deliver(self) -> None:
        """Handle what came, for one turn of the loop; more may come meanwhile."""
        pieces, end = self._from_guest, monotonic() + TURN
        try:
            while pieces and not self._held and (part := self._next_part()):
                if self.receiver is not None:
                    self.receiver(part)
                if monotonic() > end:
                    break
        finally:
            assert self.loop is not None, "attach comes first"
            self._scheduled = False  # before ``pieces`` is looked at: ``write`` may be in another thread
            if pieces and not self._held:
                self._scheduled = True
                self.loop.call_soon(self._deliver)
        if not self.ready and self._pending <= _PENDING_MAX:
            self.ready = True
            if self.on_ready is not None:
                self.on_ready()

    def _next_part(self) -> bytes:
        piece = self._from_guest[0]
        part = piece[self._done : self._done + _AT_ONCE]
        self._done += len(part)
        self._handled += len(part)
        if self._done == len(piece):
            self._done = 0
            self._from_guest.popleft()
        return part


class ExecLink:
    """Both ways to the guest. Its init answers on one: the port, where its kernel drives it; it is faster."""

    def __init__(self, channels: Sequence[ExecChannel]) -> None:
        self.receiver: Callable[[bytes], None] | None = None
        self._channels = list(channels)
        for channel in channels:
            channel.receiver = partial(self._received, channel)

    def send(self, data: bytes) -> None:
        """To the guest: both ways until it has answered."""
        for channel in self._channels:
            channel.send(data)

    def hold(self, held: bool) -> None:
        """Whether what the guest sends is kept back from *receiver*. Loop's thread."""
        for channel in self._channels:
            channel.hold(held)

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call *function* in the thread of the loop that the channels are attached to."""
        loop = self._channels[0].loop
        assert loop is not None, "what is sent has a loop"
        loop.call_soon(function)

    def _received(self, channel: ExecChannel, data: bytes) -> None:
        self._channels = [channel]
        if self.receiver is not None:
            self.receiver(data)
