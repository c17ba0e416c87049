"""Guest sockets served by the host's kernel: AF_VSOCK on both sides. Section 5.10."""

from __future__ import annotations

from pyvmm.virtio import ids
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.vhost.device import Ring, VhostDevice
from pyvmm.virtio.vhost.kernel import VHOST_VSOCK_SET_GUEST_CID, VHOST_VSOCK_SET_RUNNING, KernelVhost
from pyvmm.virtio.vsock.event import send_transport_reset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.virtio.ring.queue import Queue

DEVICE = "/dev/vhost-vsock"
MODULE = "vhost_vsock"
QUEUE_SIZE = 256
EVENT_SIZE = 16
#: The queues the kernel serves: receive and transmit. The third, for events, is served here.
SERVED = 2


class _Kernel(KernelVhost):
    def running(self, rings: list[Ring]) -> None:
        self.set_number(VHOST_VSOCK_SET_RUNNING, 1)

    def halt(self, index: int) -> None:
        self.set_number(VHOST_VSOCK_SET_RUNNING, 0)  # for both rings at once


class VhostVsock(VhostDevice):
    """Context identifier *cid* (3 to 2**32 - 2), of the host's own AF_VSOCK.

    Raises DeviceError when the host has no vhost-vsock, or another guest has that identifier.
    """

    device_id = ids.SOCKET
    name = "vsock"
    queue_sizes = (QUEUE_SIZE, QUEUE_SIZE, EVENT_SIZE)
    config_fields = {"guest_cid": "u64"}

    def __init__(self, cid: int) -> None:
        kernel = _Kernel(DEVICE, MODULE)
        try:
            kernel.set_wide_number(VHOST_VSOCK_SET_GUEST_CID, cid)
        except DeviceError as error:
            kernel.close()
            raise DeviceError(
                f"{error}: guest CID {cid} is perhaps another guest's; give this one another"
            ) from None
        super().__init__(kernel, SERVED)
        self.config.guest_cid = self.cid = cid
        self._reset_event = False

    def load_state(self, state: dict[str, Any]) -> None:
        """The kernel has none of the connections: the driver is told so, and of the CID that it has now."""
        self.config.guest_cid = self.cid
        self._reset_event = True

    def process(self, queue: Queue) -> None:
        """Buffers for events: they stay in the queue until there is an event."""
        if self._reset_event:
            self._reset_event = not send_transport_reset(self.runtime, queue)
