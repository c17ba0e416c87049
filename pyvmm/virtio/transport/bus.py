"""Virtio devices put into a machine: a page of registers, an interrupt, and a doorbell a queue.

The guest's kicks and acknowledgements come as eventfds (KVM_IOEVENTFD), and where KVM can, the registers
are read-only memory to the guest (KVM_MEM_READONLY): what a device costs while it runs is not a single exit.
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
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.transport.interrupt import USED_BUFFER
from pyvmm.virtio.transport.mmio import INTERRUPT_ACK, QUEUE_NOTIFY, SIZE, VirtioMmio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.board.board import Board
    from pyvmm.board.bus import Bus
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.pykvm import Vm

_REGISTER_WIDTH = 4
#: KVM maps memslots of a huge page's size best.
_REGION_ALIGN = 2 << 20


class EventLine(Line):
    """An interrupt pulsed by signalling an eventfd that KVM listens to (KVM_IRQFD): for those who are not us.

    KVM leaves the pulse of a pin to another thread of the kernel, which KVM_IRQ_LINE needs not. All who share
    the interrupt signal the same eventfd: of two pulses at once by different ways one would be lost.
    """

    __slots__ = ("fd",)

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def pulse(self) -> None:
        """One edge."""
        os.eventfd_write(self.fd, 1)

    def close(self) -> None:
        """Give back the eventfd."""
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
        #: The eventfd of each queue's kicks.
        self.kicks: list[int] = []
        self.transport: VirtioMmio
        self._closers: list[Callable[[], object]] = []

    @property
    def line(self) -> Line:
        """What interrupts the guest."""
        return self.transport.interrupt.line

    def close(self) -> None:
        """Stop the device and give back its eventfds. Idempotent."""
        while self._closers:
            self._closers.pop()()


class VirtioBus:
    """The virtio devices of one machine, in the order they were attached.

    :param line: the interrupt line of a number that irqfd knows
    :param loop: runs the queues of devices without a thread of their own
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
        failed: Callable[[str, Exception], object],
    ) -> None:
        self.attached: list[Attached] = []
        self._vm = vm
        self._board = board
        self._mmio = mmio
        self._line = line
        # One for all who share an interrupt.
        self._lines: dict[int, Line] = {}
        self._closers: list[Callable[[], object]] = []
        self._memory = memory
        self._loop = loop
        self._failed = failed
        self._memslots = len(memory.regions)

    def attach(self, device: VirtioDevice) -> Attached:
        """Place *device* and wire it up. Raises PlacementError (no room), KvmError or StartError."""
        try:
            return self._attach(device)
        except OSError as error:
            raise _too_few_files(device, error) from None

    def spare_exits(self, shown: bool) -> None:
        """Let the guest acknowledge interrupts without an exit, and with *shown* read registers, too.

        And where there is one CPU for all, let a device have its kicks by exits (``prompt``). Once, after the
        last ``attach``. Not a device with a tap on its transport, which is to see what the driver does, when
        it does it. Raises as ``attach``.
        """
        plain = [attached for attached in self.attached if type(attached.transport) is VirtioMmio]
        one_cpu = len(os.sched_getaffinity(0)) == 1
        for attached in plain:
            if one_cpu and not attached.device.external:
                attached.transport.doorbell = partial(self._take_kicks, attached)
            try:
                self._listen(attached)
            except OSError as error:
                raise _too_few_files(attached.device, error) from None
        if not shown or not self._vm.check_extension("READONLY_MEM"):
            return
        run: list[Attached] = []
        for attached in plain:
            if type(attached.device).config_read is not VirtioDevice.config_read:
                continue
            if run and attached.base != run[-1].base + SIZE:
                self._show(run)
                run = []
            run.append(attached)
        if run:
            self._show(run)

    def _attach(self, device: VirtioDevice) -> Attached:
        name = self._board.register(self._free_name(device.name))
        device.name = name
        window = self._board.allocate(MMIO, SIZE, name, SIZE)
        gsi = self._board.allocate(IRQ, 1, name, shared=True).base
        line = self._line_for(device, gsi)
        attached = Attached(name, device, window.base, gsi)
        self.attached.append(attached)
        closers = attached._closers
        loop = self._loop
        if device.own_thread:
            thread = LoopThread(name)
            closers.append(thread.close)
            loop = thread.loop
        for queue in range(len(device.queues)):
            kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            attached.kicks.append(kick)
            closers.append(lambda fd=kick: os.close(fd))  # type: ignore[misc]
            bell = window.base + QUEUE_NOTIFY
            self._board.place(MMIO, bell, _REGISTER_WIDTH, name, DOORBELL, datamatch=queue)
            self._vm.ioeventfd(kick, bell, _REGISTER_WIDTH, queue)
            if not device.external:
                # Edge: the counter need not be read, and each write of it is one more event.
                loop.add(kick, READ | EDGE, lambda _, queue=queue: device.run_queue(queue))  # type: ignore[misc]
                closers.append(lambda fd=kick: loop.remove(fd))  # type: ignore[misc]
        device.attach(loop)
        transport = attached.transport = VirtioMmio(
            device,
            self._memory,
            line,
            lambda queue: os.eventfd_write(attached.kicks[queue], 1),
            self._failed,
        )
        self._share(attached)
        self._mmio.attach(window, transport)
        closers.append(transport.close)
        if isinstance(line, EventLine) and device.external:
            device.wire(attached.kicks, line.fd)
        return attached

    def close(self) -> None:
        """Close every device, the last first. Idempotent."""
        while self.attached:
            self.attached.pop().close()
        while self._closers:
            self._closers.pop()()

    def _line_for(self, device: VirtioDevice, gsi: int) -> Line:
        """The line of all who share *gsi*: an eventfd as soon as one of them is external."""
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
        return line

    def _take_kicks(self, attached: Attached, queue: int, take: bool) -> None:
        """Have KVM take the kicks of *queue*, or leave them to the registers."""
        bell = attached.base + QUEUE_NOTIFY
        self._vm.ioeventfd(attached.kicks[queue], bell, _REGISTER_WIDTH, queue, deassign=not take)

    def _listen(self, attached: Attached) -> None:
        """Have KVM take the acknowledgement of used buffers."""
        address = attached.base + INTERRUPT_ACK
        acks = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        attached._closers.append(lambda: os.close(acks))
        self._board.place(MMIO, address, _REGISTER_WIDTH, attached.name, DOORBELL, datamatch=USED_BUFFER)

        def assign(on: bool) -> None:
            self._vm.ioeventfd(acks, address, _REGISTER_WIDTH, USED_BUFFER, deassign=not on)

        attached.transport.interrupt.listen(acks, attached.device.loop, assign)
        attached._closers.append(attached.transport.interrupt.close)

    def _show(self, run: list[Attached]) -> None:
        """Make the registers of neighbours read-only memory."""
        if self._memslots >= self._vm.check_extension("NR_MEMSLOTS"):
            return
        host = Anonymous(len(run) * SIZE)
        run[-1]._closers.insert(0, host.close)
        for index, attached in enumerate(run):
            attached.transport.show(host.buffer[index * SIZE : (index + 1) * SIZE])
        self._vm.set_user_memory_region(
            self._memslots, run[0].base, host.size, host.address, KVM_MEM_READONLY
        )
        self._memslots += 1

    def _free_name(self, kind: str) -> str:
        taken = {attached.name for attached in self.attached}
        return next(name for n in range(len(taken) + 1) if (name := f"{kind}{n}") not in taken)

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
