"""A vhost-user back end for any VirtioDevice: the front end is in another process.

Source: QEMU docs/interop/vhost-user.rst. One front end at a time; when it disconnects, the next one is
accepted.
"""

from __future__ import annotations

from pyvmm.backends.listener import Listener
from pyvmm.host.eventfd import EventSignaller
from pyvmm.host.notice import notice
from pyvmm.loop import READ, Loop
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.vhost.server.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.virtio.device import VirtioDevice


class BackEnd:
    """Serves *device* on the socket at *path* to one front end after the other.

    :param failed: called with what the device's own code raised
    :param listening: called when the socket listens and nothing else has begun: the process has one thread

    Raises DeviceError for a device that runs elsewhere already and for a host that has no way to signal
    eventfds, BackendError for a path that cannot be listened on, and what *listening* raises.
    """

    def __init__(
        self,
        device: VirtioDevice,
        loop: Loop,
        path: str,
        failed: Callable[[Exception], object],
        listening: Callable[[Listener], object] = lambda _: None,
    ) -> None:
        if device.external:
            raise DeviceError(
                f"{device.name} is served by another process already; give a device of this process"
            )
        self.device = device
        self.session: Session | None = None
        self._loop = loop
        self._failed = failed
        self._listener = Listener(path)
        try:
            self._signaller = event_signaller()
            listening(self._listener)
        except BaseException:
            self._listener.close()
            raise
        device.runtime.attach(loop)
        loop.add(self._listener.socket.fileno(), READ, self._accept)

    def close(self) -> None:
        """Disconnect the front end, stop and close the device, remove the socket."""
        if self.session is not None:
            self.session.close()
        self._loop.remove(self._listener.socket.fileno())
        self._listener.close()
        self.device.runtime.close()
        self._signaller.close()

    def _accept(self, _: int) -> None:
        try:
            sock, _address = self._listener.socket.accept()
        except OSError:
            return
        self._loop.remove(self._listener.socket.fileno())  # one front end at a time
        self.session = Session(self.device, sock, self._loop, self._left, self._failed, self._signaller)

    def _left(self, why: str) -> None:
        self.session = None
        notice("vhost-user session", f"{self.device.name}: the front end is gone: {why}")
        self._loop.add(self._listener.socket.fileno(), READ, self._accept)


def event_signaller() -> EventSignaller:
    """What signals the eventfds of front ends. Raises DeviceError where the host has no way to do that."""
    try:
        return EventSignaller()
    except OSError as error:
        raise DeviceError(str(error.strerror)) from None
