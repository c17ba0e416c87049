"""The class to subclass for a virtio device, whatever transport carries it."""

from __future__ import annotations

from pyvmm.virtio.config_space import ConfigSpace
from pyvmm.virtio.hooks import DEFERRED, Deferred, DeviceHooks
from pyvmm.virtio.runtime import Runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.virtio.ring.chain import Chain
    from pyvmm.virtio.ring.queue import Queue

__all__ = ["DEFERRED", "Deferred", "VirtioDevice"]


class VirtioDevice(DeviceHooks):
    """One virtio device. A subclass declares what it is and says what a request does; see DeviceHooks.

    :ivar config: the configuration space: declared fields as attributes
    :ivar runtime: what runs the device: queues, event loop, timers, watched descriptors

    Raises ValueError, OverflowError for ``config_fields`` that ConfigSpace refuses.
    """

    def __init__(self) -> None:
        self.config = ConfigSpace(self.config_fields, self.config_writable)
        self.runtime = Runtime(self)

    @property
    def memory(self) -> GuestMemory:
        """The guest's memory, from ``started`` on."""
        return self.runtime.memory

    def has(self, feature: int) -> bool:
        """Whether the driver accepted *feature* (a mask of one bit)."""
        return self.runtime.driver_features & feature != 0

    def process(self, queue: Queue) -> None:
        """Call ``handle`` for each chain of *queue*."""
        self.runtime.serve(queue)

    def complete(self, queue: int, chain: Chain) -> None:
        """End a request for which ``handle`` returned DEFERRED, with length ``chain.written``.

        *queue* is its queue's number. In the device's loop: another thread goes through ``runtime.soon``.
        """
        self.runtime.complete(queue, chain)

    def config_changed(self) -> None:
        """Tell the driver that fields of ``config`` have changed. Any thread."""
        self.runtime.config_changed()
