"""The connection to a vhost-user back end, as old as the guest: the device of each machine uses it in turn.

Source: QEMU docs/interop/vhost-user.rst.
"""

from __future__ import annotations

import select

from pyvmm.backends.host_objects import HostObject
from pyvmm.host.notice import notice
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.vhost import user_protocol as p
from pyvmm.virtio.vhost.channel import PATIENCE, Channel, backend_channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


class BackEndConnection(HostObject):
    """A back end called *place* in messages, to which *connect* connects.

    The next machine begins on the connection that there is: the one before has stopped its rings, the device
    is reset, and another memory takes the place of the one before. Where the back end does not carry that
    out, or has ended the connection, there is a new one. It has no thread.
    """

    #: Seconds that the back end may take for all that one operation asks it.
    patience = PATIENCE

    def __init__(self, connect: Callable[[], socket.socket], place: str) -> None:
        self.place = place
        #: Requests of the back end; None where it makes none.
        self.back: socket.socket | None = None
        self.receiver: p.MessageReceiver | None = None
        self._make = connect
        self._channel: Channel | None = None
        self._used = False

    def open(self) -> None:
        """``connect``. Idempotent. Raises DeviceError."""
        self.connect()

    def connect(self) -> None:
        """Connect, and agree on the protocol's features. Idempotent. Raises DeviceError."""
        if self._channel is not None:
            return
        self._used = False
        self._channel = Channel(self._make(), self.place, self.patience)
        try:
            if self._channel.protocol & p.PROTOCOL_F_BACKEND_REQ:
                self.back = backend_channel(self._channel)
                self.receiver = p.MessageReceiver(self.back, descriptors=False)
        except BaseException:
            self.close()
            raise

    def next(self) -> Channel:
        """The connection for the device of the next machine, the first one too. Raises DeviceError."""
        self.connect()
        assert self._channel is not None
        if self._used:
            try:
                self._channel.renew()
            except DeviceError:
                notice(
                    f"vhost-user {self.place}",
                    f"{self.place}: {self._channel.lost}; the guest's next boot has a new connection to it",
                )
                BackEndConnection.close(self)
                self.connect()
        self._used = True
        return self._channel

    @property
    def hung_up(self) -> bool:
        """Whether the connection is over, on whichever side."""
        return self._channel is not None and is_over(self._channel.fd)

    def detach(self) -> None:
        """Nothing of the machine waits for the back end any more."""
        if self._channel is not None:
            self._channel.settle()

    def close_back(self) -> None:
        """The back end makes no more requests."""
        if self.back is not None:
            self.back.close()
            self.back = None

    def close(self) -> None:
        """End the connection: most back ends end with it. Idempotent."""
        self.close_back()
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


def is_over(fd: int) -> bool:
    """Whether the connection *fd* is over, on whichever side."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))
