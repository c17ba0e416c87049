"""A directory of the host's as a file system of the guest's: virtio-fs, served by virtiofsd. Section 5.11."""

from __future__ import annotations

from pyvmm.virtio import ids
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.vhost.helper_connection import HelperDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.virtio.fs.virtiofsd import Virtiofsd

QUEUE_SIZE = 1024


class Share(HelperDevice):
    """The directory that *server* serves, under the name in the configuration space *config*.

    Raises DeviceError when virtiofsd does not speak the protocol.
    """

    def __init__(self, server: Virtiofsd, config: bytes) -> None:
        try:
            super().__init__(server, ids.FILE_SYSTEM, "fs", queues=2, queue_size=QUEUE_SIZE, config=config)
        except DeviceError as error:
            raise server.failure(error) from None
