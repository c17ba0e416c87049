"""Virtio devices put into a machine: a page of registers, an interrupt, and an ioeventfd a queue.

The driver's notifications and acknowledgements come as eventfds (KVM_IOEVENTFD), and where KVM can, the
registers are read-only memory to the guest (KVM_MEM_READONLY): a running device costs no exit.
"""

from __future__ import annotations

import os
from functools import partial

from pyvmm.board.device import Line
from pyvmm.board.space import DOORBELL, IRQ, MMIO
from pyvmm.errors import StartError
from pyvmm.loop import EDGE, READ, Loop, LoopThread
from pyvmm.memory.host import Anonymous
from pyvmm.pykvm.const import KVM_MEM_READONLY
from pyvmm.virtio.transport.interrupt import USED_BUFFER
from pyvmm.virtio.transport.mmio import INTERRUPT_ACK, QUEUE_NOTIFY, SIZE
from pyvmm.virtio.transport.observed import mmio_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.board.board import Board
    from pyvmm.board.bus import Bus
    from pyvmm.board.timers import Timers
    from pyvmm.host.eventfd import EventSignaller
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.pykvm import Vm
    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.observer import Observer
    from pyvmm.virtio.transport.mmio import VirtioMmio

_REGISTER_WIDTH = 4
#: KVM maps memslots of a huge page's size best.
_REGION_ALIGN = 2 << 20


class EventLine(Line):
    """An interrupt pulsed by signalling an eventfd (KVM_IRQFD), for queues that another process or the kernel
    runs.

    KVM leaves the pulse of a pin to a kernel thread, which KVM_IRQ_LINE does not. All devices that share
    the interrupt signal the same eventfd: of two pulses at once, one by each way, one would be lost.
    """

    __slots__ = ("_signal", "fd")

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._signal: Callable[[], object] = partial(os.eventfd_write, self.fd, 1)

    def signal_by(self, signal: Callable[[], object]) -> None:
        """Signal the eventfd by calling *signal*: another process gets it, which may make a write block."""
        self._signal = signal

    def pulse(self) -> None:
        """One edge."""
        self._signal()

    def close(self) -> None:
        """Close the eventfd."""
        fd, self.fd = self.fd, -1
        os.close(fd)


class Attached:
    """One device in its place: registers at *base*, interrupt *gsi*."""

    __slots__ = ("_closers", "base", "device", "gsi", "kicks", "name", "transport")

    def __init__(self, name: str, device: VirtioDevice, base: int, gsi: int) -> None:
        self.name = name
        self.device = device
        self.base = base
        self.gsi = gsi
        #: The eventfd of each queue's notifications.
        self.kicks: list[int] = []
        self.transport: VirtioMmio
        self._closers: list[Callable[[], object]] = []

    @property
    def line(self) -> Line:
        """What interrupts the guest."""
        return self.transport.interrupt.line

    def close(self) -> None:
        """Stop the device and close its eventfds. Idempotent."""
        while self._closers:
            self._closers.pop()()


class VirtioBus:
    """The virtio devices of one machine, in the order they were attached.

    :param line: the interrupt line of a number that irqfd knows
    :param loop: runs the queues of devices without a thread of their own
    :param timers: gives the clock of the machine whose calls are made in a loop's thread
    :param failed: gets the name and the exception of a device whose own code is defective
    """

    def __init__(
        self,
        vm: Vm,
        board: Board,
        mmio: Bus,
        line: Callable[[int], Line],
        memory: GuestMemory,
        loop: Loop,
        timers: Callable[[Loop], Timers],
        failed: Callable[[str, Exception], object],
    ) -> None:
        self.attached: list[Attached] = []
        self._names: set[str] = set()
        self._vm = vm
        self._board = board
        self._mmio = mmio
        self._line = line
        # By interrupt: one for all devices that share it.
        self._lines: dict[int, Line] = {}
        self._closers: list[Callable[[], object]] = []
        self._memory = memory
        self._loop, self._timers = loop, timers
        self._failed = failed
        self._memslots = len(memory.regions)
        # Signals the eventfds that other processes get; made for the first device that needs it.
        self._signaller: EventSignaller | None = None

    def name(self, device: VirtioDevice) -> None:
        """Make *device*'s name its own: ``disk`` becomes ``disk0``. Once, before ``attach``."""
        name = next(
            name for n in range(len(self._names) + 1) if (name := f"{device.name}{n}") not in self._names
        )
        self._names.add(name)
        device.name = self._board.register(name)

    def attach(self, device: VirtioDevice, observers: Sequence[Observer] = ()) -> Attached:
        """Place *device*, which has its name, and connect it; *observers* are as for Runtime.attach.

        Raises PlacementError (no room), KvmError or StartError.
        """
        try:
            return self._attach(device, observers)
        except OSError as error:
            raise _too_few_files(device, error) from None

    def spare_exits(self, map_registers: bool) -> None:
        """Let the guest acknowledge interrupts without an exit, and with *map_registers* read registers, too.

        Once, after the last ``attach``. Not for a device with observers of its registers: they see each
        access when it happens. Raises as ``attach``, and HostMemoryError.
        """
        unobserved = [attached for attached in self.attached if not attached.transport.observed]
        for attached in unobserved:
            try:
                self._assign_ack_ioeventfd(attached)
            except OSError as error:
                raise _too_few_files(attached.device, error) from None
        if not map_registers or not self._vm.check_extension("READONLY_MEM"):
            return
        run: list[Attached] = []
        for attached in unobserved:
            if run and attached.base != run[-1].base + SIZE:
                self._map_registers(run)
                run = []
            run.append(attached)
        if run:
            self._map_registers(run)

    def _attach(self, device: VirtioDevice, observers: Sequence[Observer]) -> Attached:
        name = device.name
        window = self._board.allocate(MMIO, SIZE, name, SIZE)
        gsi = self._board.allocate(IRQ, 1, name, shared=True).base
        line = self._line_for(device, gsi)
        attached = Attached(name, device, window.base, gsi)
        self.attached.append(attached)
        closers, runtime = attached._closers, device.runtime
        loop = self._loop
        if device.own_thread:
            thread = LoopThread(name)
            closers.append(thread.close)
            loop = thread.loop
        kicks: list[Callable[[], object]] = []
        for queue in range(len(device.queue_sizes)):
            kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            attached.kicks.append(kick)
            closers.append(lambda fd=kick: os.close(fd))  # type: ignore[misc]
            kicks.append(self._shared(kick) if device.shares_memory else partial(os.eventfd_write, kick, 1))
            bell = window.base + QUEUE_NOTIFY
            self._board.place(MMIO, bell, _REGISTER_WIDTH, name, DOORBELL, datamatch=queue)
            self._vm.ioeventfd(kick, bell, _REGISTER_WIDTH, queue)
            if not device.external:
                # Edge: the counter need not be read, and each write of it is one more event.
                loop.add(kick, READ | EDGE, lambda _, queue=queue: runtime.run_queue(queue))  # type: ignore[misc]
                closers.append(lambda fd=kick: loop.remove(fd))  # type: ignore[misc]
        runtime.attach(loop, observers, self._timers(loop))
        transport = attached.transport = mmio_for(
            device,
            self._memory,
            line,
            lambda queue: kicks[queue](),
            self._failed,
        )
        self._share(attached)
        self._mmio.attach(window, transport)
        closers.append(transport.close)
        if isinstance(line, EventLine) and device.external:
            runtime.assign_eventfds(attached.kicks, line.fd)
        return attached

    def ending(self) -> None:
        """The machine is over: its vCPUs are waited for, then ``close`` is called. Any thread."""
        for attached in [*self.attached]:
            attached.device.ending()

    def close(self) -> None:
        """Close every device, the last first. Idempotent."""
        while self.attached:
            self.attached.pop().close()
        while self._closers:
            self._closers.pop()()

    def _line_for(self, device: VirtioDevice, gsi: int) -> Line:
        """The line of all devices that share *gsi*: an eventfd as soon as one of them is external."""
        line = self._lines.get(gsi)
        if device.external and not isinstance(line, EventLine):
            line = self._lines[gsi] = EventLine()
            self._closers.append(line.close)
            self._vm.irqfd(line.fd, gsi)
            for other in self.attached:
                if other.gsi == gsi:
                    other.transport.interrupt.line = line
        if line is None:
            line = self._lines[gsi] = self._line(gsi)
        if isinstance(line, EventLine) and device.shares_memory:
            line.signal_by(self._shared(line.fd))
        return line

    def _shared(self, fd: int) -> Callable[[], object]:
        """What signals eventfd *fd*, which another process gets."""
        if self._signaller is None:
            from pyvmm.host.eventfd import EventSignaller

            try:
                self._signaller = EventSignaller()
            except OSError as error:
                raise StartError(str(error.strerror)) from None
            self._closers.append(self._signaller.close)
        return self._signaller.signal(fd)

    def _assign_ack_ioeventfd(self, attached: Attached) -> None:
        """Have KVM signal an eventfd for the acknowledgement of used buffers."""
        address = attached.base + INTERRUPT_ACK
        acks = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        attached._closers.append(lambda: os.close(acks))
        self._board.place(MMIO, address, _REGISTER_WIDTH, attached.name, DOORBELL, datamatch=USED_BUFFER)

        def assign(on: bool) -> None:
            self._vm.ioeventfd(acks, address, _REGISTER_WIDTH, USED_BUFFER, deassign=not on)

        attached.transport.interrupt.assign_ioeventfd(acks, attached.device.runtime.loop, assign)
        attached._closers.append(attached.transport.interrupt.close)

    def _map_registers(self, run: list[Attached]) -> None:
        """Map the registers of *run*, whose pages are adjacent, as read-only memory of the guest."""
        if self._memslots >= self._vm.check_extension("NR_MEMSLOTS"):
            return
        host = Anonymous(len(run) * SIZE)
        run[-1]._closers.insert(0, host.close)
        for index, attached in enumerate(run):
            attached.transport.mirror_registers(host.buffer[index * SIZE : (index + 1) * SIZE])
        self._vm.set_user_memory_region(
            self._memslots, run[0].base, host.size, host.address, KVM_MEM_READONLY
        )
        self._memslots += 1

    def _share(self, attached: Attached) -> None:
        """Place the device's shared memory regions in the guest's address space (2.10)."""
        for identifier, host in attached.device.shared_regions.items():
            window = self._board.allocate(
                MMIO, host.size, f"{attached.name} region {identifier}", _REGION_ALIGN
            )
            if self._memslots >= self._vm.check_extension("NR_MEMSLOTS"):
                raise StartError(f"{attached.name}: this host's KVM has no memslot left; remove a device")
            self._vm.set_user_memory_region(self._memslots, window.base, host.size, host.address)
            self._memslots += 1
            attached.transport.shared[identifier] = (window.base, host.size)


def _too_few_files(device: VirtioDevice, error: OSError) -> StartError:
    return StartError(
        f"{device.name} cannot be attached: {error.strerror}; a device opens two eventfds and one a queue, "
        "so where files are short, raise their limit (ulimit -n)"
    )
