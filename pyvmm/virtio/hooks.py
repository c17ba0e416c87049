"""What a device declares about itself, and what its runtime calls: the names a subclass fills in."""

from __future__ import annotations

from pyvmm.virtio.features import COMMON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyvmm.errors import PyvmmError
    from pyvmm.memory.host import HostMemory
    from pyvmm.virtio.config_space import ConfigSpace
    from pyvmm.virtio.ring.chain import Chain
    from pyvmm.virtio.ring.queue import Queue


class Deferred:
    """The type of DEFERRED."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "DEFERRED"


#: What ``handle`` returns for a request that ``complete`` ends later.
DEFERRED = Deferred()


class DeviceHooks:
    """Declarations and hooks of a virtio device, which subclasses of VirtioDevice override.

    ``handle`` and ``process`` run in the device's loop thread, one at a time with every callback of the
    runtime, and only while the driver has the device running. A GuestError that one of them raises stops
    the device until the driver resets it; any other error is a defect and ends the machine.
    """

    #: The device type's identifier (virtio section 5), 1 to 2**32 - 1.
    device_id = 0
    #: What users call it: letters, digits, ``-`` and ``_``. A machine adds a number: ``rng0``.
    name = "virtio"
    #: The device type's feature bits that it offers (0 to 23, 50 to 63), as a mask.
    features = 0
    #: Names of those bits, for messages and traces.
    feature_names: Mapping[int, str] = {}
    #: The maximum size of each queue: powers of two, 32768 at most.
    queue_sizes: Sequence[int] = ()
    #: How many of the last queues a saved state may lack: those of a feature that its driver was not offered.
    later_queues = 0
    #: Whether ``handle`` or ``process`` can use an IndirectChain's ``vector``.
    indirect_vectors = False
    #: The configuration space: field names and types, see ConfigSpace.
    config_fields: Mapping[str, str] = {}
    #: The fields that the driver may write.
    config_writable: frozenset[str] = frozenset()
    #: True gives it an event loop in a thread of its own, for work that blocks.
    own_thread = False
    #: True when the kernel or another process runs its queues, from their eventfds (vhost).
    external = False
    #: True when another process serves it, which must be able to map guest RAM.
    shares_memory = False
    #: Names of this host's files and directories that it uses while it runs: where its process is confined,
    #: these stay reachable, directories with all below them and the UNIX sockets in them, and no others.
    paths: Sequence[str] = ()
    #: Host memory it shares with the guest besides RAM, by identifier (2.10).
    shared_regions: Mapping[int, HostMemory] = {}

    config: ConfigSpace

    @property
    def offered_features(self) -> int:
        """Every feature the driver may accept: the device type's, and those of queue and transport."""
        return self.features | COMMON

    # Requests

    def handle(self, queue: int, chain: Chain) -> Deferred | None:
        """Carry out one request of queue number *queue*.

        A request is done when this returns, and the driver is told the length ``chain.written``; or it
        returns DEFERRED, and ``complete(queue, chain)`` follows. Raises ChainError, or GuestMemoryError
        for an address inside a request, when the request breaks the device's rules: it is completed with
        what was written so far, and the device goes on.
        """
        raise NotImplementedError(f"{self.name} has queues and no handle()")

    def process(self, queue: Queue) -> None:
        """The driver has notified the device of chains in *queue*: serve them, at most a queue's length.

        By default ``handle`` is called for each. A device that works on many chains at once overrides it, and
        takes them by ``runtime.turn(queue)``, which ends in time for others.
        """
        raise NotImplementedError

    # The device's life

    def attached(self) -> None:
        """The device has its final name, its event loop and its queues. Before everything below.

        Once. Raises StartError when the host's objects behind the device cannot be opened.
        """

    def started(self) -> None:
        """The driver is ready (DRIVER_OK). Any thread; QueueError and OSError refuse the start."""

    def stopped(self) -> None:
        """The driver reset the device, or the machine is over, after ``started``. Any thread.

        Chains that the device has are the driver's again.
        """

    def halted(self, error: PyvmmError) -> None:
        """The device stops serving for *error*, until the driver resets it (DEVICE_NEEDS_RESET)."""

    def config_written(self, offset: int, size: int) -> None:
        """The driver wrote *size* bytes at *offset* of the configuration space. A vCPU's thread."""

    def ending(self) -> None:
        """The machine is over: its vCPUs leave the guest, the device is stopped next.

        What the device waits for is to come to an end. Any thread, also that of another start of the device.
        """

    def close(self) -> None:
        """The machine is over, the device stopped: close the host's objects. Idempotent."""

    # Saving and loading

    def before_save(self) -> None:
        """The device is about to be saved: bring what is under way in other threads to an end. Any thread."""

    def save_state(self) -> dict[str, Any]:
        """What is to be saved beside queues, features and configuration space: plain values for JSON."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what ``save_state`` returned. Configuration space and ``has`` are as they were saved.

        ``started`` follows if the driver had the device running. Raises StateError for what does not fit;
        LookupError, TypeError and ValueError become one.
        """

    def pending(self, queue: Queue) -> int:
        """How many of the chains last taken from *queue* are to be taken again after a load."""
        return 0

    def resumed(self) -> None:
        """The machine goes on after a save, without a load. Any thread."""

    # For tools

    def describe(self, queue: int, request: bytes) -> str:
        """A few words for a trace: what *request*, the first readable bytes of a chain, asks for."""
        return ""
