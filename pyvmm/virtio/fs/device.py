"""A directory of the host's as a file system of the guest's: virtio-fs, served by virtiofsd. Section 5.11."""

from __future__ import annotations

from pyvmm.host.notice import notice
from pyvmm.host.printable import printable
from pyvmm.loop import READ
from pyvmm.virtio import ids
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.vhost.frontend import VhostUser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.virtio.fs.virtiofsd import Virtiofsd

QUEUE_SIZE = 1024


class Share(VhostUser):
    """The directory that *server* serves, under the name in the configuration space *config*.

    Raises DeviceError when virtiofsd does not speak the protocol.
    """

    def __init__(self, server: Virtiofsd, config: bytes) -> None:
        self._server = server
        try:
            super().__init__(server, ids.FILE_SYSTEM, "fs", queues=2, queue_size=QUEUE_SIZE, config=config)
        except DeviceError as error:
            raise server.failure(error) from None

    def attached(self) -> None:
        """Report what virtiofsd writes to its standard error."""
        super().attached()
        self.runtime.loop.add(self._server.errors, READ, self._report)

    def close(self) -> None:
        """Let go of virtiofsd, which ends with its connection."""
        if self._watching and self._server.errors >= 0:
            self.runtime.loop.remove(self._server.errors)
        super().close()

    def _report(self, _: int) -> None:
        """Report the lines that virtiofsd wrote, at a limited rate."""
        server = self._server
        if not server.read_errors():
            self.runtime.loop.remove(server.errors)
        *lines, server.said = server.said.split(b"\n")
        for line in lines:
            notice(f"{server.place} says", f"{server.place}: {printable(line)}")
