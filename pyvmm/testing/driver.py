"""A virtio driver without a guest: it lays rings in memory and drives any device through its registers.

Everything happens in the caller's thread: a notification is carried out when ``run`` turns the device's
loop, so a test sees each step. What a well-behaved driver does has a method; what a hostile one
does goes through ``write``, ``DriverQueue.describe`` and ``DriverQueue.offer``.
"""

from __future__ import annotations

import os

from pyvmm.board.device import Line
from pyvmm.host.barrier import full_barrier
from pyvmm.loop import READ, Loop
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import Anonymous, Memfd
from pyvmm.virtio import features as f
from pyvmm.virtio.ring import descriptor
from pyvmm.virtio.ring.descriptor import INDIRECT, NEXT, WRITE
from pyvmm.virtio.transport import mmio
from pyvmm.virtio.transport.observed import mmio_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from typing_extensions import Buffer

    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.observer import Observer

#: Where the memory that a FakeDriver makes for itself begins, and how large it is.
BASE = 0x10_0000
MEMORY = 64 << 20


class CountingLine(Line):
    """An interrupt wire that counts its edges."""

    def __init__(self) -> None:
        self.pulses = 0

    def pulse(self) -> None:
        """One edge."""
        self.pulses += 1


class DriverRequest:
    """One chain the driver made available: what it asked, and once it is done, what came back."""

    __slots__ = ("buffers", "done", "head", "indices", "table", "written")

    def __init__(self, head: int, indices: list[int], buffers: list[tuple[int, int]]) -> None:
        self.head = head
        self.indices = indices
        #: (address, size) of each device-writable buffer.
        self.buffers = buffers
        #: True when the device has completed it.
        self.done = False
        #: The length the device reported, in bytes.
        self.written = 0


class DriverQueue:
    """One virtqueue, the driver's side, with *size* descriptors."""

    def __init__(self, driver: FakeDriver, index: int, size: int) -> None:
        self.driver = driver
        self.index = index
        self.size = size
        memory = driver.memory
        self.desc = driver.allocate(descriptor.SIZE * size, 16)
        self.avail = driver.allocate(6 + 2 * size, 2)
        self.used = driver.allocate(6 + 8 * size, 4)
        for address, length in (
            (self.desc, 16 * size),
            (self.avail, 6 + 2 * size),
            (self.used, 6 + 8 * size),
        ):
            memory.write(address, bytes(length))
        self.avail_idx = 0
        self.used_idx = 0
        self.pending: dict[int, DriverRequest] = {}
        self._free = list(range(size - 1, -1, -1))
        self._kicked_at = 0

    @property
    def free(self) -> int:
        """Descriptors not in use."""
        return len(self._free)

    # The ordinary way

    def add(
        self,
        readable: Sequence[Buffer] = (),
        writable: Sequence[int] = (),
        *,
        indirect: bool = False,
    ) -> DriverRequest:
        """Make one chain available: the bytes of *readable*, then room of the sizes of *writable*.

        Raises IndexError when the queue has too few free descriptors.
        """
        driver = self.driver
        parts = []
        for data in readable:
            address = driver.allocate(max(1, memoryview(data).nbytes))
            if memoryview(data).nbytes:
                driver.memory.write(address, data)
            parts.append((address, memoryview(data).nbytes, 0))
        buffers = [(driver.allocate(max(1, size)), size) for size in writable]
        parts += [(address, size, WRITE) for address, size in buffers]
        return self.add_buffers(parts, buffers, indirect=indirect)

    def add_buffers(
        self,
        parts: Sequence[tuple[int, int, int]],
        buffers: list[tuple[int, int]] | None = None,
        *,
        indirect: bool = False,
    ) -> DriverRequest:
        """Make a chain of ``(address, size, flags)`` available; NEXT is set where one follows."""
        linked = [
            (address, size, flags | (NEXT if i < len(parts) - 1 else 0))
            for i, (address, size, flags) in enumerate(parts)
        ]
        if indirect:
            table = self.driver.allocate(descriptor.SIZE * len(parts), 16)
            for i, (address, size, flags) in enumerate(linked):
                self._descriptor(table + descriptor.SIZE * i, address, size, flags, i + 1)
            linked = [(table, descriptor.SIZE * len(parts), INDIRECT)]
        indices = [self._free.pop() for _ in linked]
        for i, (address, size, flags) in enumerate(linked):
            self.describe(indices[i], address, size, flags, indices[i + 1] if flags & NEXT else 0)
        request = DriverRequest(indices[0], indices, buffers or [])
        self.pending[request.head] = request
        self.offer(request.head)
        return request

    def kick(self) -> bool:
        """Notify the device unless it asked not to be; True when it was notified (2.7.13.4)."""
        full_barrier()
        memory, old, new = self.driver.memory, self._kicked_at, self.avail_idx
        if self.driver.features & f.F_EVENT_IDX:
            event = memory.read_u16(self.used + 4 + 8 * self.size)
            wanted = (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
        else:
            wanted = not memory.read_u16(self.used) & 1
        self._kicked_at = new
        if wanted:
            self.driver.write(mmio.QUEUE_NOTIFY, 4, self.index)
        return wanted

    def collect(self) -> list[DriverRequest]:
        """The requests completed since the last call, in the order of the used ring.

        Raises AssertionError when the device completed a chain that it was not given.
        """
        memory, done = self.driver.memory, []
        end = memory.read_u16(self.used + 2)
        while self.used_idx != end:
            at = self.used + 4 + 8 * (self.used_idx % self.size)
            head, written = memory.read_u32(at), memory.read_u32(at + 4)
            request = self.pending.pop(head, None)
            if request is None:
                raise AssertionError(f"the device completed {head}, which the driver did not make available")
            request.done, request.written = True, written
            self._free += reversed(request.indices)
            done.append(request)
            self.used_idx = (self.used_idx + 1) & 0xFFFF
        memory.write_u16(self.avail + 4 + 2 * self.size, self.used_idx)  # used_event: interrupt for the next
        return done

    def data(self, request: DriverRequest) -> bytes:
        """What the device wrote into *request*'s buffers, as far as it says that it wrote."""
        data = b"".join(self.driver.memory.read(a, size) for a, size in request.buffers if size)
        return data[: request.written]

    # The hostile way

    def describe(self, index: int, address: int, size: int, flags: int = 0, next_index: int = 0) -> None:
        """Write descriptor *index* of the table with any guest-physical *address*, *size* and *flags*.

        *flags* are NEXT, WRITE and INDIRECT (2.7.5) as a mask, *next_index* is the number of the next
        descriptor.
        """
        self._descriptor(self.desc + descriptor.SIZE * index, address, size, flags, next_index)

    def offer(self, head: int) -> None:
        """Put *head* into the available ring, and advance its index."""
        memory = self.driver.memory
        memory.write_u16(self.avail + 4 + 2 * (self.avail_idx % self.size), head)
        self.set_avail_idx(self.avail_idx + 1)

    def set_avail_idx(self, value: int) -> None:
        """Set the available ring's index."""
        self.avail_idx = value & 0xFFFF
        self.driver.memory.write_u16(self.avail + 2, self.avail_idx)

    def _descriptor(self, at: int, address: int, size: int, flags: int, next_index: int) -> None:
        self.driver.memory.write_u64(at, address)
        self.driver.memory.write_u64(at + 8, size | flags << 32 | next_index << 48)


class FakeDriver:
    """Drives *device* as a guest's driver would; ready to use when made.

    :param memory: guest memory to lay things in; by default 64 MiB of its own at 1 MiB, shared where the
        device needs that
    :param features: what to accept of what the device offers; by default all of it
    :param queue_size: entries of each queue; by default what the device offers, 256 at most
    :param start: False leaves the device reset: ``probe`` starts it later
    :param observers: what sees the device at work, the nearest to it first: a recorder, a trace, faults

    Raises AssertionError when the device refuses what it offers, or does not start, TimeoutError when it
    does not come to rest.
    """

    def __init__(
        self,
        device: VirtioDevice,
        *,
        memory: GuestMemory | None = None,
        features: int | None = None,
        queue_size: int | None = None,
        start: bool = True,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._own_memory = memory is None
        kind = Memfd if device.shares_memory else Anonymous
        self.memory = memory or GuestMemory([Region(BASE, MEMORY, kind(MEMORY))])
        self.device = device
        self.loop = Loop()
        self.line = CountingLine()
        self.queues: list[DriverQueue] = []
        #: What was negotiated.
        self.features = 0
        self._wanted = features
        self._queue_size = queue_size
        region = max(self.memory.regions, key=lambda region: region.size)
        self._next, self._end = region.gpa, region.end
        device.runtime.attach(self.loop, observers)
        self.transport = mmio_for(device, self.memory, self.line, self._kick)
        # Eventfds of an external device: each queue's notifications, and the interrupt.
        self._kicks: list[int] = []
        self._interrupt = -1
        if device.external:
            self._make_eventfds()
        if start:
            self.probe()

    def __enter__(self) -> FakeDriver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def interrupts(self) -> int:
        """Edges of the interrupt line so far."""
        return self.line.pulses

    def close(self) -> None:
        """Reset and close the device, its loop and the memory that was made for it."""
        self.transport.close()
        self.loop.close()
        for fd in (*self._kicks, self._interrupt):
            if fd >= 0:
                os.close(fd)
        if self._own_memory:
            self.memory.close()

    def replace(self, make: Callable[[], VirtioDevice], state: dict[str, Any]) -> None:
        """Close the device, and go on with a fresh one that *make* returns and that loads *state*.

        *state* is what ``transport.save()`` returned; the rings stay where they are. Raises StateError, and
        TimeoutError when the device does not come to rest.
        """
        self.transport.close()
        self.device = make()
        self.device.runtime.attach(self.loop)
        self.transport = mmio_for(self.device, self.memory, self.line, self._kick)
        if self._kicks:
            self.device.runtime.assign_eventfds(self._kicks, self._interrupt)
        self.transport.load(state)
        self.run()

    # Registers

    def read(self, offset: int, size: int = 4) -> int:
        """Read *size* bytes of the device's registers, as a number."""
        return self.transport.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write *value*, of *size* bytes, to the device's registers."""
        self.transport.write(offset, size, value)

    def config(self, offset: int, size: int) -> int:
        """Read *size* bytes at *offset* of the configuration space, as a number."""
        return self.read(mmio.CONFIG + offset, size)

    @property
    def status(self) -> int:
        """The Status register."""
        return self.read(mmio.STATUS)

    # The steps of 3.1.1

    def probe(self) -> None:
        """Reset, negotiate, set up all queues, start.

        Raises AssertionError when the device refuses, TimeoutError when it does not come to rest.
        """
        self.reset()
        self.write(mmio.STATUS, 4, f.ACKNOWLEDGE)
        self.write(mmio.STATUS, 4, f.ACKNOWLEDGE | f.DRIVER)
        offered = self.offered()
        if not self.negotiate(offered if self._wanted is None else self._wanted):
            raise AssertionError("FEATURES_OK was refused")
        for index in range(len(self.device.queue_sizes)):
            self.set_up_queue(index)
        self.driver_ok()
        if self.status & f.DEVICE_NEEDS_RESET:
            raise AssertionError("the device did not start")
        self.run()

    def reset(self) -> None:
        """Write 0 to Status and forget all queues."""
        self.write(mmio.STATUS, 4, 0)
        self.queues = []
        self.features = 0

    def offered(self) -> int:
        """The features the device offers."""
        features = 0
        for sel in (0, 1):
            self.write(mmio.DEVICE_FEATURES_SEL, 4, sel)
            features |= self.read(mmio.DEVICE_FEATURES) << 32 * sel
        return features

    def negotiate(self, features: int) -> bool:
        """Accept *features*; True when the device agrees."""
        for sel in (0, 1):
            self.write(mmio.DRIVER_FEATURES_SEL, 4, sel)
            self.write(mmio.DRIVER_FEATURES, 4, features >> 32 * sel & 0xFFFF_FFFF)
        self.write(mmio.STATUS, 4, f.ACKNOWLEDGE | f.DRIVER | f.FEATURES_OK)
        agreed = bool(self.status & f.FEATURES_OK)
        self.features = features if agreed else 0
        return agreed

    def set_up_queue(self, index: int, size: int | None = None) -> DriverQueue:
        """Lay out queue *index* and tell the device where it is."""
        self.write(mmio.QUEUE_SEL, 4, index)
        most = self.read(mmio.QUEUE_SIZE_MAX)
        queue = DriverQueue(self, index, size or min(most, self._queue_size or 256))
        self.write(mmio.QUEUE_SIZE, 4, queue.size)
        for low, high, address in (
            (mmio.QUEUE_DESC_LOW, mmio.QUEUE_DESC_HIGH, queue.desc),
            (mmio.QUEUE_DRIVER_LOW, mmio.QUEUE_DRIVER_HIGH, queue.avail),
            (mmio.QUEUE_DEVICE_LOW, mmio.QUEUE_DEVICE_HIGH, queue.used),
        ):
            self.write(low, 4, address & 0xFFFF_FFFF)
            self.write(high, 4, address >> 32)
        self.write(mmio.QUEUE_READY, 4, 1)
        self.queues.append(queue)
        return queue

    def driver_ok(self) -> None:
        """Set DRIVER_OK."""
        self.write(mmio.STATUS, 4, self.status | f.DRIVER_OK)

    # Using it

    def allocate(self, size: int, align: int = 1) -> int:
        """The address of *size* bytes of guest memory, aligned to *align*.

        When all was given out it begins again behind the rings. Raises MemoryError for more than there is.
        """
        address = -(-self._next // align) * align
        if address + size > self._end:
            region = max(self.memory.regions, key=lambda region: region.size)
            # Rings lie at the beginning: their memory is never given out again.
            rings = max((queue.used + 6 + 8 * queue.size for queue in self.queues), default=region.gpa)
            address = -(-rings // align) * align
            if address + size > self._end:
                raise MemoryError(f"{size} bytes do not fit into the fake driver's memory")
        self._next = address + size
        return address

    def run(self, until: Callable[[], object] | None = None, timeout: float = 10.0) -> None:
        """Turn the device's loop until nothing is left to do, or until *until* holds.

        Raises TimeoutError when *until* does not come to hold within *timeout* seconds.
        """
        if until is None:
            while self.loop.run_once(0):
                pass
            return
        end = self.loop.clock() + timeout
        while not until():
            if self.loop.clock() > end:
                raise TimeoutError(f"the device did not do it within {timeout:g} seconds")
            self.loop.run_once(0.01)

    def request(
        self,
        queue: int,
        readable: Sequence[Buffer] = (),
        writable: Sequence[int] = (),
        *,
        indirect: bool = False,
        timeout: float = 10.0,
    ) -> bytes:
        """One request from beginning to end; returns what the device wrote.

        Raises TimeoutError when it is not completed within *timeout* seconds.
        """
        ring = self.queues[queue]
        request = ring.add(readable, writable, indirect=indirect)
        ring.kick()

        def done() -> bool:
            ring.collect()
            return request.done

        try:
            self.run(done, timeout)
        except TimeoutError:
            if self.device.external or not self.device.runtime.queues[queue].in_flight:
                raise
            raise TimeoutError(
                f"the device took the request and did not complete it within {timeout:g} seconds; after a "
                "handle() that returns DEFERRED, complete() has to follow"
            ) from None
        return ring.data(request)

    def acknowledge(self) -> int:
        """Read InterruptStatus and acknowledge it, as an interrupt handler does; returns what it was."""
        status = self.read(mmio.INTERRUPT_STATUS)
        if status:
            self.write(mmio.INTERRUPT_ACK, 4, status)
        return status

    def _make_eventfds(self) -> None:
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self._kicks = [os.eventfd(0, flags) for _ in self.device.queue_sizes]
        self._interrupt = os.eventfd(0, flags)
        self.loop.add(self._interrupt, READ, self._interrupted)
        self.device.runtime.assign_eventfds(self._kicks, self._interrupt)

    def _interrupted(self, _: int) -> None:
        os.eventfd_read(self._interrupt)
        self.line.pulse()

    def _kick(self, queue: int) -> None:
        if self._kicks:
            os.eventfd_write(self._kicks[queue], 1)
            return
        self.loop.call_soon(lambda: self.device.runtime.run_queue(queue))
