"""The serial console of a machine in another process: bytes of a stream socket behind a ``Detached``."""

from __future__ import annotations

from pyvmm.guest.stream import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from pyvmm.backends.base import Detached
    from pyvmm.loop import Loop

#: Bytes typed that wait for the VM process; the console keeps the rest.
_TYPED = 512


class ConsoleSocket:
    """Stands for the serial port that *console* is attached to. Used by the loop's thread.

    :param link: its stream to the VM process, of one machine after the other; stays the caller's
    """

    def __init__(self, loop: Loop, console: Detached, link: socket.socket) -> None:
        stream = self._stream = Stream(loop, link, console.write, on_sent=console.resume)
        console.attach(loop, self._send, lambda: _TYPED - len(stream.unsent))

    def drain(self) -> None:
        """While the loop does not run: what has come so far."""
        self._stream.drain()

    def _send(self, data: bytes) -> bool:
        self._stream.send(data)
        return True
