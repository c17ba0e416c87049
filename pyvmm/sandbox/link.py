"""The messages between a VM process and its parent: datagrams of a socket pair, one a message.

Nothing that either end does blocks the other: a message that finds no room is not sent.
"""

from __future__ import annotations

import _socket  # without the enums of ``socket``

from pyvmm.host import rights
from pyvmm.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.loop import Loop

# From the parent.
#: A signal that the parent got; one byte with its number follows.
SIGNAL = b"s"
#: End the machine; the sentence that tells why follows.
STOP = b"q"
#: The user has sent a break by the terminal's keys.
BREAK = b"b"
#: A client of the control socket, whose descriptor comes with the message.
CLIENT = b"c"
#: The guest's name is free again: the answer to ENDED.
NAME_GIVEN_UP = b"n"

# From the VM process.
#: The machine is built and its guest begins.
BEGINS = b"r"
#: The machine is ending because somebody asked for it: what is left must not take long. The reason, a zero
#: byte and the detail of the ending follow.
ENDING = b"e"
#: The machine is paused, because of a SIGTSTP.
PAUSED = b"p"
#: A descriptor for the next VM process comes with the message; ``Leftovers`` says whose.
KEEP = b"k"
#: The guest has ended; a record follows (``VmProcess.ended``).
ENDED = b"d"

#: Bytes of a message at most.
LIMIT = 4096
#: Messages of one turn of the loop: an end that sends without pause holds up nothing else of the other's.
_BATCH = 16
_PEER_GONE = (107, 104, 32)  # ENOTCONN, ECONNRESET, EPIPE


class MessageLink:
    """One end of the socket pair. Used by the thread that runs its loop.

    :param end: a connected SOCK_SEQPACKET socket, which becomes the link's
    """

    def __init__(self, end: _socket.socket) -> None:
        self._socket = end
        self._loop: Loop | None = None
        end.setblocking(False)

    def send(self, message: bytes, fd: int = -1) -> bool:
        """Send *message* of at most LIMIT bytes, and a copy of *fd*; False when that cannot be now."""
        try:
            rights.send(self._socket, message, fd)
        except OSError:
            return False
        return True

    def receive(self) -> tuple[bytes, int] | None:
        """The next message and its descriptor, which is the caller's, or -1; None when there is none now.

        The message is empty when the other end is gone.
        """
        try:
            return rights.receive(self._socket, LIMIT)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in _PEER_GONE:
                return b"", -1
            return None

    def serve(self, loop: Loop, receive: Callable[[bytes, int], object]) -> None:
        """Call ``receive(message, fd)`` from *loop* for each message.

        The last one is empty: the other end is gone.
        """
        self._loop = loop

        def ready(events: int) -> None:
            for _ in range(_BATCH):
                found = self.receive()
                if found is None:
                    return
                if not found[0]:
                    loop.remove(self._socket.fileno())
                receive(*found)
                if not found[0]:
                    return

        loop.add(self._socket.fileno(), READ, ready)

    def wait(self, seconds: float, *, to_send: bool = False) -> bool:
        """Wait until there is a message, at most *seconds*, without a limit if negative; whether there is.

        :param to_send: wait until one can be sent instead
        """
        import select

        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLOUT if to_send else select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        """Idempotent."""
        if self._loop is not None:
            self._loop.remove(self._socket.fileno())
            self._loop = None
        self._socket.close()


def pair() -> tuple[_socket.socket, _socket.socket]:
    """Both ends of a link. Raises OSError."""
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
