"""The exec channel of a machine in another process: bytes of a stream socket, at both ends."""

from __future__ import annotations

from pyvmm.exec.channel import UNSENT_MAX, ExecChannelError
from pyvmm.guest.stream import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pyvmm.exec.channel import ExecLink
    from pyvmm.loop import Loop

#: Bytes from the guest that wait for the other process, beyond which the guest waits.
_WAITING_MAX = 1 << 20


class ExecSocket:
    """One end of the stream. Used by the loop's thread, ``close`` also while the loop does not run.

    :param link: a connected stream socket, which becomes this object's
    """

    def __init__(self, loop: Loop, link: socket.socket) -> None:
        #: Gets what the other end has sent.
        self.receiver: Callable[[bytes], None] | None = None
        #: Called when all that was kept has been taken.
        self.on_sent: Callable[[], object] | None = None
        self._loop = loop
        self._socket = link
        self.stream = Stream(loop, link, self._receive, on_sent=self._sent)

    def send(self, data: bytes) -> None:
        """Send, or keep until it is taken. Raises ExecChannelError where too much is kept already."""
        if len(self.stream.unsent) + len(data) > UNSENT_MAX:
            raise ExecChannelError(
                f"the guest asks for more on its exec channel and has left {UNSENT_MAX >> 20} MiB unread"
            )
        self.stream.send(data)

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call *function* in the loop's thread."""
        self._loop.call_soon(function)

    def close(self) -> None:
        """Idempotent."""
        self.stream.close()
        self._socket.close()

    def _receive(self, data: bytes) -> None:
        if self.receiver is not None:
            self.receiver(data)

    def _sent(self) -> None:
        if self.on_sent is not None:
            self.on_sent()


class ExecBridge:
    """In the VM process: carries bytes between *link*, the guest's end, and *other*, the program's.

    A guest whose program reads nothing waits; a program cannot send more than the guest has asked for.
    """

    def __init__(self, link: ExecLink, other: ExecSocket) -> None:
        self._link = link
        self._other = other
        self._held = False
        link.receiver = self._from_guest
        other.receiver = self._to_guest
        other.on_sent = self._sent

    def _from_guest(self, data: bytes) -> None:
        self._other.send(data)
        if len(self._other.stream.unsent) > _WAITING_MAX and not self._held:
            self._held = True
            self._link.hold(True)

    def _sent(self) -> None:
        if self._held:
            self._held = False
            self._link.hold(False)

    def _to_guest(self, data: bytes) -> None:
        try:
            self._link.send(data)
        except ExecChannelError:
            self._other.close()  # the guest reads nothing: its commands are lost
