"""The options of ``--vsock``."""

from __future__ import annotations

from pyvmm.virtio.vsock.device import Vsock
from pyvmm.virtio.vsock.listener import VsockListener
from pyvmm.virtio.vsock.packet import CID_FIRST_GUEST, CID_LAST_GUEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.options import OptionReader


def from_options(reader: OptionReader) -> VirtioDevice:
    """``vsock=CID,path=SOCKET``, or ``vsock=CID,vhost`` for the host's own sockets of that kind.

    Raises ConfigError, DeviceError.
    """
    cid = reader.number("cid", None, CID_FIRST_GUEST, CID_LAST_GUEST)
    if cid is None:
        raise reader.error("cid is missing; give the guest a number from 3 on")
    if reader.flag("vhost"):
        from pyvmm.virtio.vsock.vhost import VhostVsock

        return VhostVsock(cid)
    path = reader.need("path")
    return Vsock(cid, path, reader.open("listener", lambda: VsockListener(path)))
