"""The entropy device: random bytes for the guest. Section 5.4."""

from __future__ import annotations

import os

from pyvmm.virtio import ids
from pyvmm.virtio.device import VirtioDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.virtio.ring.chain import Chain

#: The most bytes one request gets: a chain can describe the same page many times over.
LIMIT = 64 << 10


class Rng(VirtioDevice):
    """Fills the driver's buffers with the host's random numbers, 64 KiB at most a request."""

    device_id = ids.ENTROPY
    name = "rng"
    queue_sizes = (64,)

    def handle(self, queue: int, chain: Chain) -> None:
        """One request."""
        chain.write(os.urandom(min(chain.writable_size, LIMIT)))
