"""The event of a socket device: its driver's connections are gone. Section 5.10.6.7."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.virtio.ring.queue import Queue
    from pyvmm.virtio.runtime import Runtime

TRANSPORT_RESET = 0


def send_transport_reset(runtime: Runtime, queue: Queue) -> bool:
    """Have the driver end its connections and read its CID again; False when *queue* has no buffer."""
    chain = queue.pop()
    if chain is None:
        return False
    chain.write(TRANSPORT_RESET.to_bytes(4, "little"))
    runtime.complete(queue.index, chain)
    return True
