"""A virtio device whose queues the kernel or another process runs: what vhost and vhost-user share.

The back end gets the eventfds of notifications, and signals the guest's interrupt by another (irqfd): no
request passes through this process. Registers, status and features stay here.
"""

from __future__ import annotations

from contextlib import nullcontext

from pyvmm.host.notice import notice
from pyvmm.loop import EDGE, READ
from pyvmm.virtio import features as f
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.errors import DeviceError, QueueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pyvmm.memory.guest import GuestMemory
    from pyvmm.virtio.ring.queue import Queue

#: Feature bits from 24 to 49 are not the device type's (6); of these, what a back end may offer the driver.
PASSED = f.F_VERSION_1 | f.F_INDIRECT_DESC | f.F_EVENT_IDX | f.F_IN_ORDER
OWN = ((1 << 24) - 1) | ((1 << 64) - (1 << 50))


class Ring:
    """What a back end must know of one queue: host virtual addresses, eventfds.

    :param kick: the eventfd of the driver's notifications
    :param call: the eventfd that interrupts the driver
    :param err: the eventfd by which the back end says that the ring is broken; -1 for none

    Raises QueueError for a part of the ring that is not in one region of memory.
    """

    __slots__ = ("avail", "base", "call", "desc", "err", "index", "kick", "size", "used")

    def __init__(self, memory: GuestMemory, queue: Queue, kick: int, call: int, err: int) -> None:
        self.index = queue.index
        self.size = queue.size
        #: Where in the available ring to begin.
        self.base = queue.position
        self.desc = _address(memory, queue, "descriptor table", queue.desc, 16 * queue.size)
        self.avail = _address(memory, queue, "available ring", queue.driver, 6 + 2 * queue.size)
        self.used = _address(memory, queue, "used ring", queue.device, 6 + 8 * queue.size)
        self.kick = kick
        self.call = call
        self.err = err


class VhostControl:
    """Requests to a back end. Every method raises DeviceError when the back end does not carry it out."""

    #: Every feature the back end has.
    features = 0

    def operation(self) -> AbstractContextManager[None]:
        """For requests that belong together, such as those of a start."""
        return nullcontext()

    def begin(self, memory: GuestMemory, features: int) -> None:
        """The driver accepted *features*; queues in *memory* follow."""
        raise NotImplementedError

    def start_ring(self, ring: Ring) -> None:
        """Prepare *ring*; it runs from ``running`` on."""
        raise NotImplementedError

    def running(self, rings: list[Ring]) -> None:
        """All *rings* are prepared: run them."""
        raise NotImplementedError

    def stop_ring(self, index: int) -> int:
        """Stop a ring; returns where in the available ring it would go on."""
        raise NotImplementedError

    def close(self) -> None:
        """End the connection to the back end. Idempotent."""
        raise NotImplementedError


class VhostDevice(VirtioDevice):
    """A device whose queues the back end behind *control* runs.

    :param served: how many of its queues, from the first on, the back end runs; all by default
    """

    external = True

    def __init__(self, control: VhostControl, served: int | None = None) -> None:
        super().__init__()
        self.connect(control, served)

    def connect(self, control: VhostControl, served: int | None = None) -> None:
        """The second half of ``__init__``, for a subclass that is another kind of device besides.

        *served* is as for the class.
        """
        self.control = control
        self._served = len(self.queue_sizes) if served is None else served
        self._watched_kicks: list[int] = []
        #: The eventfd by which the back end says that a queue is broken; -1 for none.
        self.error_fd = -1
        self._rings: list[Ring] = []

    @property
    def served(self) -> int:
        """How many of its queues, from the first on, the back end runs."""
        return self._served

    @property
    def offered_features(self) -> int:
        """What the back end has, less what the transport cannot carry."""
        return self.control.features & (OWN | PASSED)

    def started(self) -> None:
        """Check the queues as for a device of this process, and pass them to the back end.

        Raises QueueError, DeviceError.
        """
        runtime = self.runtime
        memory, features = self.memory, runtime.driver_features
        try:
            rings = []
            for queue in runtime.queues:
                if not queue.ready:
                    continue
                queue.activate(memory, features)
                if queue.index >= self.served:
                    self._watch_kick(queue.index)
                else:
                    kick = runtime.kicks[queue.index]
                    rings.append(Ring(memory, queue, kick, runtime.interrupt, self.error_fd))
            with self.control.operation():
                self.control.begin(memory, features)
                for ring in rings:
                    self._rings.append(ring)
                    self.control.start_ring(ring)
                self.control.running(rings)
        except BaseException:
            self._stop_rings()
            raise

    def stopped(self) -> None:
        """Stop the queues: nothing touches guest memory any more."""
        self._stop_rings()

    def not_stopped(self, error: DeviceError) -> None:
        """A queue could not be stopped: tell the user."""
        notice(f"virtio {self.name} stop", f"{self.name}: a queue could not be stopped: {error}")

    def before_save(self) -> None:
        """Have the back end stop the rings, and learn their positions. Raises DeviceError if it does not."""
        runtime = self.runtime
        failed = None
        with self.control.operation():
            for ring in self._rings:
                try:
                    ring.base = self.control.stop_ring(ring.index)
                except DeviceError as error:
                    failed = failed or error
                else:
                    runtime.queues[ring.index].begin_at(ring.base)
        if failed is not None and runtime.active:  # else it was halted before, and the user told
            runtime.halt(failed)
            raise failed

    def resumed(self) -> None:
        """Have the back end go on with the rings."""
        if not self.runtime.active:
            return
        try:
            with self.control.operation():
                for ring in self._rings:
                    self.control.start_ring(ring)
                self.control.running(self._rings)
        except DeviceError as error:
            self.runtime.halt(error)

    def close(self) -> None:
        """End the connection to the back end."""
        self.control.close()

    def _watch_kick(self, index: int) -> None:
        runtime, kick = self.runtime, self.runtime.kicks[index]
        # Edge: the counter need not be read, and each write of it is one more event.
        runtime.loop.add(kick, READ | EDGE, lambda _: runtime.run_queue(index))
        self._watched_kicks.append(kick)

    def _stop_rings(self) -> None:
        while self._watched_kicks:
            self.runtime.loop.remove(self._watched_kicks.pop())
        rings, self._rings = self._rings, []
        if self.runtime.held:
            return  # the back end stopped them when the device was saved
        try:
            with self.control.operation():
                for ring in rings:
                    self.control.stop_ring(ring.index)
        except DeviceError as error:
            self.not_stopped(error)


def _address(memory: GuestMemory, queue: Queue, what: str, gpa: int, size: int) -> int:
    """The host address of a part of a ring, which must be contiguous there."""
    first, last = memory.translate(gpa), memory.translate(gpa + size - 1)
    if last - first != size - 1:
        raise QueueError(
            f"queue {queue.index}: its {what} lies across two regions of memory, which vhost cannot follow"
        )
    return first
