"""The socket by which a running guest is found: it takes the clients of its control server."""

from __future__ import annotations

import os

from pyvmm.host.peer import credentials
from pyvmm.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pyvmm.guest.registry import Claim
    from pyvmm.loop import Loop

_ACCEPT_PAUSE = 0.5
_ACCEPT_BATCH = 16


class ControlListener:
    """Accepts connections to *claim*'s socket from processes of this user, for ``serve(connection)``.

    The connection is closed after that call: *serve* makes a copy of its descriptor. Made and closed in the
    loop's thread, or while the loop does not run.
    """

    def __init__(self, loop: Loop, claim: Claim, serve: Callable[[socket.socket], object]) -> None:
        self._loop = loop
        self._claim = claim
        self._serve = serve
        self._closed = False

    def close(self) -> None:
        """Give up the name. Idempotent."""
        if not self._closed:
            self._closed = True
            self._loop.remove(self._claim.socket.fileno())
            self._claim.close()

    def listen(self) -> None:
        """Begin to accept."""
        if not self._closed:
            self._loop.add(self._claim.socket.fileno(), READ, self._accept)

    def _accept(self, events: int) -> None:
        for _ in range(_ACCEPT_BATCH):
            try:
                connection, _ = self._claim.socket.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor left: stop asking for a while
                self._loop.remove(self._claim.socket.fileno())
                self._loop.call_later(_ACCEPT_PAUSE, self.listen)
                return
            with connection:
                if credentials(connection)[1] == os.geteuid():
                    self._serve(connection)
