"""The event of a socket device: its driver's connections are gone. Section 5.10.6.7."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.ring.queue import Queue

TRANSPORT_RESET = 0


def tell_reset(device: VirtioDevice, queue: Queue) -> bool:
    """Have *device*'s driver end its connections and read its CID anew; False when *queue* has no buffer."""
    chain = queue.pop()
    if chain is None:
        return False
    chain.write(TRANSPORT_RESET.to_bytes(4, "little"))
    device.complete(queue, chain, chain.written)
    return True
