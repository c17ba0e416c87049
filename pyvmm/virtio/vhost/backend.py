"""Our vhost-user back end: any VirtioDevice, unchanged, for the front end of another process.

Source: QEMU docs/interop/vhost-user.rst. One front end at a time; when it leaves, the next one is
welcome.
"""

from __future__ import annotations

import errno
import os
import socket

from pyvmm.loop import READ, Loop
from pyvmm.notice import notice
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.vhost.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.virtio.device import VirtioDevice


class BackEnd:
    """Serves *device* on the socket at *path* to one front end after the other.

    :param failed: called with what the device's own code raised
    Raises DeviceError for a device that runs elsewhere already, or a path that cannot be listened on.
    """

    def __init__(
        self, device: VirtioDevice, loop: Loop, path: str, failed: Callable[[Exception], object]
    ) -> None:
        if device.external:
            raise DeviceError(
                f"{device.name} is served by somebody else already; give a device of this process"
            )
        self.device = device
        self.path = path
        self.session: Session | None = None
        self._loop = loop
        self._failed = failed
        self._listener = listen(path)
        device.attach(loop)
        loop.add(self._listener.fileno(), READ, self._accept)

    def close(self) -> None:
        """Let the front end go, stop and close the device, remove the socket."""
        if self.session is not None:
            self.session.close()
        self._loop.remove(self._listener.fileno())
        self._listener.close()
        try:
            os.unlink(self.path)
        except OSError:
            pass
        self.device.close()

    def _accept(self, _: int) -> None:
        try:
            sock, _address = self._listener.accept()
        except OSError:
            return
        self._loop.remove(self._listener.fileno())  # the next one waits
        self.session = Session(self.device, sock, self._loop, self._left, self._failed)

    def _left(self, why: str) -> None:
        self.session = None
        notice("vhost-user session", f"{self.device.name}: the front end is gone: {why}")
        self._loop.add(self._listener.fileno(), READ, self._accept)


def listen(path: str) -> socket.socket:
    """A socket that listens at *path*, for this user alone; replaces one that nobody listens on."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _stale(path):
                raise
            os.unlink(path)
            listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(1)
    except OSError as error:  # a path too long, too
        listener.close()
        raise DeviceError(f"socket {path}: {error.strerror or error}; choose another path") from None
    return listener


def _stale(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
