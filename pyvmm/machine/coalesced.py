"""Port writes that KVM queued instead of exiting for.

KVM does not empty the ring, and a guest that halts does not flush it. So it is drained after every
KVM_RUN, before the exit is dispatched (which keeps the order of accesses), when the machine stops, and by a
timer. Source: Linux virt/kvm/coalesced_mmio.c, and
``struct kvm_coalesced_mmio_ring`` in <linux/kvm.h>.
"""

from __future__ import annotations

import _thread
from mmap import PAGESIZE

from pyvmm.arch import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyvmm.arch.interface import Platform
    from pyvmm.board.bus import Bus
    from pyvmm.machine.clock import MachineClock
    from pyvmm.pykvm import Kvm, Vcpu, Vm

PAGE = PAGESIZE
ENTRY = 24
CAPACITY = (PAGE - 8) // ENTRY
#: Seconds between two drains by the timer, for a guest that writes and then halts.
TICK = 0.01
#: The same after ``PATIENCE`` drains of an unchanged ring: an idle guest should not keep its host awake.
IDLE_TICK = 0.1
PATIENCE = 20


class CoalescedRing:
    """The ring of one VM: KVM maps the same page behind every vCPU's run page.

    :param vcpu: any vCPU of the VM
    :param page: where the ring is in the run mapping, in pages (what the capability returns)
    :param bus: where the writes go
    :param failed: gets the name of a device that raised, and the exception
    :param polls: exits before which queued writes may stay queued, as the 64-bit word at offset 32 of the run
        page has them: direction, size, port and count of a port access, or the address
    """

    __slots__ = (
        "_base",
        "_bus",
        "_failed",
        "_idle",
        "_lock",
        "_run8",
        "_run32",
        "_seen",
        "index",
        "polls",
        "words",
    )

    def __init__(
        self,
        vcpu: Vcpu,
        page: int,
        bus: Bus,
        failed: Callable[[str, Exception], object],
        polls: frozenset[int] = frozenset(),
    ) -> None:
        self._base = page * PAGE
        self._run8 = vcpu.run8
        self._run32 = vcpu.run32
        self._bus = bus
        self._failed = failed
        self._lock = _thread.allocate_lock()
        self.polls = polls
        #: ``words[index]`` has the ring's ``first`` and ``last``, 32 bits each; equal halves mean empty.
        self.words = vcpu.run64
        self.index = self._base // 8
        self._seen = self._idle = 0

    def tick(self) -> float:
        """``drain``; returns the seconds until the next call. Only one thread calls it."""
        self.drain()
        ends = self.words[self.index]
        self._idle = self._idle + 1 if ends == self._seen else 0
        self._seen = ends
        return IDLE_TICK if self._idle > PATIENCE else TICK

    def drain(self) -> None:
        """Carry out what is queued, in order. Any thread may call it."""
        first_at = self._base // 4
        ends, data = self._run32, self._run8
        with self._lock:
            first = ends[first_at]
            while first != ends[first_at + 1]:
                at = self._base + 8 + first * ENTRY
                address, size = ends[at // 4], ends[at // 4 + 2]
                bytes_ = bytearray(data[at + 16 : at + 16 + size])
                first = (first + 1) % CAPACITY
                # Consecutive writes to one register, such as a line on a console, go to the device in one
                # call.
                while first != ends[first_at + 1]:
                    at = self._base + 8 + first * ENTRY
                    if ends[at // 4] != address or ends[at // 4 + 2] != size:
                        break
                    bytes_ += data[at + 16 : at + 16 + size]
                    first = (first + 1) % CAPACITY
                self._carry_out(address, size, bytes(bytes_))
                # Only now: a vCPU that finds the ring empty assumes that its writes were carried out.
                ends[first_at] = first

    def _carry_out(self, address: int, size: int, data: bytes) -> None:
        found = self._bus.find(address, size)
        try:
            if found is not None and size == 1:
                found[0].write_many(found[1], data)
                return
            values = [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]
            if found is not None:
                found[0].write_burst(found[1], size, values)
            else:
                for value in values:
                    self._bus.write(address, size, value)
        except Exception as error:
            self._failed(found[0].name if found is not None else "the VMM", error)


class Coalescing:
    """The writes of a machine that KVM queues: which ones, and the timer that drains the ring.

    :param clock: the machine's; a pause stops the timer, since the ring is empty then
    :param ring: None where KVM cannot queue writes
    :param ports: one-byte ports that are registered at their first write: registering one starts a grace
        period, for which a guest that ends at once would have to wait
    """

    __slots__ = ("_clock", "_lock", "_ports", "_ticking", "_vm", "ring")

    def __init__(self, vm: Vm, clock: MachineClock, ring: CoalescedRing | None, ports: Iterable[int]) -> None:
        self._vm = vm
        self._clock = clock
        self._ports = set(ports if ring is not None else ())
        self._ticking = False
        self._lock = _thread.allocate_lock()
        self.ring = ring

    def first_write(self, port: int) -> None:
        """The guest wrote *port* (0 to 0xffff) for the first time. Any thread. Raises KvmError."""
        with self._lock:
            if port not in self._ports:
                return
            self._ports.remove(port)
            self._begin()
        self._vm.register_coalesced_mmio(port, 1, pio=True)

    def start(self) -> None:
        """Start the timer: some writes are queued from the start on."""
        with self._lock:
            self._begin()

    def drain(self) -> None:
        """Carry out what is queued. Any thread."""
        if self.ring is not None:
            self.ring.drain()

    def _begin(self) -> None:
        if self.ring is not None and not self._ticking:
            self._ticking = True
            self._clock.call_later(TICK, self._tick)

    def _tick(self) -> None:
        assert self.ring is not None, "there is a timer only with a ring"
        self._clock.call_later(self.ring.tick(), self._tick)


def coalesce(
    kvm: Kvm,
    vm: Vm,
    vcpu: Vcpu,
    bus: Bus,
    platform: Platform,
    clock: MachineClock,
    failed: Callable[[str, Exception], object],
) -> Coalescing:
    """Have KVM queue the writes to *bus* that *platform* names, where it can; ports follow at a first write.

    The arguments are those of ``CoalescedRing`` and ``Coalescing``. Raises KvmError.
    """
    page = kvm.check_extension("COALESCED_MMIO")
    ring = None
    if page and kvm.check_extension(native.chips.COALESCED_NEEDS):
        for address, size in platform.coalesced:
            vm.register_coalesced_mmio(address, size)
        ring = CoalescedRing(vcpu, page, bus, failed, platform.polls)
    return Coalescing(vm, clock, ring, native.chips.COALESCED_PORTS)
