"""A virtio device whose queues somebody else runs: what the kernel's vhost and vhost-user share.

The kicks' eventfds go to the other side, which signals the guest's interrupt through KVM's own:
no request passes through this process. Registers, status and features stay with us.
"""

from __future__ import annotations

from pyvmm.host.notice import notice
from pyvmm.loop import EDGE, READ
from pyvmm.virtio import features as f
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.errors import DeviceError, QueueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.virtio.ring.queue import Queue

#: Feature bits from 24 to 49 are not a device's own (6); of these we let the other side's through.
PASSED = f.F_VERSION_1 | f.F_INDIRECT_DESC | f.F_EVENT_IDX | f.F_IN_ORDER
OWN = ((1 << 24) - 1) | ((1 << 64) - (1 << 50))


class Ring:
    """What the other side must know of one queue: host virtual addresses, eventfds."""

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


class Control:
    """How the other side is told what to do. Every method raises DeviceError when it cannot be."""

    #: Every feature the other side has.
    features = 0

    def begin(self, memory: GuestMemory, features: int) -> None:
        """The driver accepted *features*; queues in *memory* follow."""
        raise NotImplementedError

    def start_ring(self, ring: Ring) -> None:
        """Prepare *ring*; it runs from ``running`` on."""
        raise NotImplementedError

    def running(self, rings: list[Ring]) -> None:
        """All rings are prepared: run them."""
        raise NotImplementedError

    def stop_ring(self, index: int) -> int:
        """Stop a ring; returns where in the available ring it would go on."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go. Idempotent."""
        raise NotImplementedError


class VhostDevice(VirtioDevice):
    """A device in front of *control*.

    :param served: how many of its queues, from the first on, the other side runs; all by default
    """

    external = True

    def __init__(self, control: Control, served: int | None = None) -> None:
        super().__init__()
        self.put_behind(control, served)

    def put_behind(self, control: Control, served: int | None = None) -> None:
        """The second half of ``__init__``, for a subclass that is another kind of device besides."""
        self.control = control
        self._served = len(self.queues) if served is None else served
        self._watched_kicks: list[int] = []
        self._kicks: list[int] = []
        self._interrupt = -1
        #: The eventfd by which the other side says that a queue is broken; -1 for none.
        self.error_fd = -1
        self._rings: list[Ring] = []

    @property
    def served(self) -> int:
        """How many of its queues, from the first on, the other side runs."""
        return self._served

    @property
    def offered_features(self) -> int:
        """What the other side has, less what the transport cannot carry."""
        return self.control.features & (OWN | PASSED)

    def wire(self, kicks: list[int], interrupt: int) -> None:
        """Remember the eventfds to pass on."""
        self._kicks = kicks
        self._interrupt = interrupt

    def started(self) -> None:
        """Check the queues as for a device of our own, and hand them over."""
        memory, features = self.memory, self.driver_features
        try:
            rings = []
            for queue in self.queues:
                if not queue.ready:
                    continue
                queue.activate(memory, features)
                if queue.index >= self.served:
                    self._watch_kick(queue.index)
                else:
                    kick = self._kicks[queue.index]
                    rings.append(Ring(memory, queue, kick, self._interrupt, self.error_fd))
            self.control.begin(memory, features)
            for ring in rings:
                self._rings.append(ring)
                self.control.start_ring(ring)
            self.control.running(rings)
        except BaseException:
            self._stop_rings()
            raise

    def stopped(self) -> None:
        """Take the queues back: nothing touches guest memory any more."""
        self._stop_rings()

    def run_queue(self, index: int) -> None:
        """Kicks go to the other side, but for those of our own queues."""
        if index >= self.served:
            super().run_queue(index)

    def not_stopped(self, error: DeviceError) -> None:
        """A queue could not be taken back: say so."""
        notice(f"virtio {self.name} stop", f"{self.name}: a queue could not be stopped: {error}")

    def hold(self) -> None:
        """As any device; the other side stops the rings, and says where they stand."""
        failed = None
        for ring in self._rings:
            try:
                ring.base = self.control.stop_ring(ring.index)
            except DeviceError as error:
                failed = failed or error
            else:
                self.queues[ring.index].begin_at(ring.base)
        if failed is not None and self.active:  # else it broke before, and was told of
            self.broken(failed)
            raise failed
        super().hold()

    def release(self) -> None:
        """As any device; the other side goes on with the rings."""
        super().release()
        if not self.active:
            return
        try:
            for ring in self._rings:
                self.control.start_ring(ring)
            self.control.running(self._rings)
        except DeviceError as error:
            self.broken(error)

    def close(self) -> None:
        """Let go of the other side."""
        self.control.close()

    def _watch_kick(self, index: int) -> None:
        kick = self._kicks[index]
        # Edge: the counter need not be read, and each write of it is one more event.
        self.loop.add(kick, READ | EDGE, lambda _: self.run_queue(index))
        self._watched_kicks.append(kick)

    def _stop_rings(self) -> None:
        while self._watched_kicks:
            self.loop.remove(self._watched_kicks.pop())
        rings, self._rings = self._rings, []
        if self.held:
            return
        for ring in rings:
            try:
                self.control.stop_ring(ring.index)
            except DeviceError as error:
                self.not_stopped(error)
                return


def _address(memory: GuestMemory, queue: Queue, what: str, gpa: int, size: int) -> int:
    """The host address of a ring's part, which must lie in one piece there."""
    first, last = memory.translate(gpa), memory.translate(gpa + size - 1)
    if last - first != size - 1:
        raise QueueError(
            f"queue {queue.index}: its {what} lies across two regions of memory, which vhost cannot follow"
        )
    return first
