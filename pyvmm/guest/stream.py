"""A connected stream socket on an event loop."""

from __future__ import annotations

import select

from pyvmm.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pyvmm.loop import Loop

_CHUNK = 256 << 10


class Stream:
    """Sends what the other end takes and keeps the rest; the loop's thread, or while the loop does not run.

    :param link: a connected stream socket, which stays the caller's
    :param receive: gets what comes
    :param on_end: called once when the other end is gone
    :param on_sent: called when all that was kept has been taken
    """

    def __init__(
        self,
        loop: Loop,
        link: socket.socket,
        receive: Callable[[bytes], object],
        on_end: Callable[[], object] | None = None,
        on_sent: Callable[[], object] | None = None,
    ) -> None:
        self._loop = loop
        self._socket = link
        self._receive = receive
        self._on_end = on_end
        self._on_sent = on_sent
        self._open = True
        #: Bytes that wait to be sent.
        self.unsent = bytearray()
        self._events = READ
        link.setblocking(False)
        loop.add(link.fileno(), READ, self._ready)

    def send(self, data: bytes) -> None:
        """Send, or keep until it is taken."""
        if self._open:
            self.unsent += data
            self._flush()

    def flush(self, patience: float) -> None:
        """Send what is kept, while the other end takes some.

        :param patience: seconds that it may take nothing
        """
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLOUT)
        while self._open and self.unsent and poll.poll(patience * 1000):
            self._flush()

    def drain(self) -> None:
        """Receive all that has come so far."""
        while self._open and self._take():
            pass

    def close(self) -> None:
        """Neither send nor receive any more. Idempotent."""
        if self._open:
            self._open = False
            self._loop.remove(self._socket.fileno())

    def _flush(self) -> None:
        try:
            while self.unsent:
                with memoryview(self.unsent) as view:
                    sent = self._socket.send(view[:_CHUNK])
                del self.unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.unsent.clear()  # gone: reading finds the end
        events = READ | (WRITE if self.unsent else 0)
        if events != self._events:
            self._events = events
            self._loop.modify(self._socket.fileno(), events)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
            if not self.unsent and self._on_sent is not None:
                self._on_sent()
        if events & ~WRITE and self._open:
            self._take()

    def _take(self) -> bool:
        """Receive a part of what has come; whether there may be more."""
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._receive(data)
            return True
        self.close()
        if self._on_end is not None:
            self._on_end()
        return False
