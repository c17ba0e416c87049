"""One vCPU's thread: KVM_RUN, and what to do when it returns.

The loop is the hot path of the VMM; docs/architecture.md, "The exit path".
Source: Linux Documentation/virt/kvm/api.rst, section 5 (the kvm_run structure).
"""

from __future__ import annotations

import _thread
import errno

from pyvmm.errors import StartError
from pyvmm.loop import no_thread, thread_room
from pyvmm.machine.ending import FATAL, INFERRED, UNKNOWN, Ending
from pyvmm.pykvm.const import KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_MMIO, KVM_EXIT_SYSTEM_EVENT
from pyvmm.pykvm.kick import Kick

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from pyvmm.board.bus import Bus
    from pyvmm.machine.coalesced import CoalescedRing
    from pyvmm.pykvm import Vcpu

    PortEntry = tuple[Callable[..., Any], int, int, memoryview, int]

    class VcpuOwner(Protocol):
        """What a vCPU's thread tells the machine. All methods are called by any vCPU's thread."""

        def end(self, ending: Ending, error: BaseException | None = None) -> None:
            """The machine is to end; the first ending counts."""

        def device_failed(self, name: str, error: Exception) -> None:
            """Device *name* raised *error* while it handled an access."""

        def checkpoint(self, vcpu: Vcpu) -> bool:
            """The vCPU left KVM_RUN without an exit; blocks during a pause. False: the thread is to end."""

        def system_event(self, kind: int) -> bool:
            """KVM_EXIT_SYSTEM_EVENT of this type. False: the thread is to end."""

        def first_write(self, port: int) -> None:
            """The guest wrote a byte to *port* for the first time."""

        def cannot_go_on(self, vcpu: Vcpu, index: int, reason: int, number: int = 0) -> None:
            """KVM_RUN failed with errno *number*, or returned *reason*; it cannot be called again."""

        def gone(self, vcpu: Vcpu) -> None:
            """The thread ends."""


# A thread's clock by its number: MAKE_THREAD_CPUCLOCK of Linux include/linux/posix-timers_types.h.
_CPUCLOCK_SCHED = 2
_CPUCLOCK_PERTHREAD = 4

# Word indexes into the run page, by the width of the view.
_REASON32 = 8 // 4
_UNION64 = 32 // 8
_DATA_OFFSET64 = 40 // 8
_MMIO_LEN64 = 48 // 8
_MMIO_DATA8 = 40


class VcpuThread:
    """Runs vCPU *index*, from 0, in a thread of its own until the machine ends."""

    __slots__ = (
        "_done",
        "_kick",
        "_mmio",
        "_owner",
        "_polled",
        "_port_entries",
        "_ports",
        "_ring",
        "_started",
        "_tid",
        "index",
        "vcpu",
    )

    def __init__(
        self, owner: VcpuOwner, vcpu: Vcpu, index: int, ports: Bus, mmio: Bus, ring: CoalescedRing | None
    ) -> None:
        self._owner = owner
        self._ports = ports
        self._mmio = mmio
        self._ring = ring
        self._port_entries: dict[int, PortEntry] = {}
        #: Reads of a serial port's line status, which are most exits of a boot to a console: the port, whose
        #: ``polled`` is the answer, and the answer's index in ``run8``.
        self._polled: dict[int, tuple[Any, int]] = {}
        self._kick = Kick(vcpu)
        self._done = _thread.allocate_lock()
        self._started = False
        self._tid = 0
        self.vcpu = vcpu
        self.index = index

    def start(self) -> None:
        """Begin to run the guest. Raises StartError when the host has no thread to give."""
        self._done.acquire()
        try:
            with thread_room():
                _thread.start_new_thread(self._main, ())
        except RuntimeError:
            self._done.release()
            raise no_thread(f"vCPU {self.index}") from None
        self._started = True

    def kick(self) -> None:
        """Make KVM_RUN return (now or the next time) in this vCPU's thread."""
        self._kick.kick()

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._started:
            self._done.acquire()
            self._done.release()

    @property
    def is_current(self) -> bool:
        """Whether the caller is this thread."""
        return self._tid == _thread.get_native_id()

    def processor_time(self) -> float:
        """Seconds of processor time that the thread has used; 0 before and after it runs. Any thread."""
        if not self._tid:
            return 0.0
        from time import clock_gettime

        try:
            return clock_gettime(~self._tid << 3 | _CPUCLOCK_PERTHREAD | _CPUCLOCK_SCHED)
        except OSError:
            return 0.0

    def _main(self) -> None:
        self._tid = _thread.get_native_id()
        try:
            with self._kick.attached():
                self._loop()
        except BaseException as error:  # an exception must not be lost with the thread
            self._owner.end(Ending(FATAL, "internal", UNKNOWN, f"vCPU {self.index}: {error!r}"), error)
        finally:
            try:
                self._owner.gone(self.vcpu)
            finally:
                self._done.release()

    def _loop(self) -> None:
        while True:
            try:
                if not self._run():
                    return
            except Exception as error:
                self._owner.device_failed(self._device_of_exit(), error)
                return

    def _run(self) -> bool:
        """The hot loop. False when the machine ends."""
        vcpu = self.vcpu
        call = vcpu.run_raw
        run32, run64, run8 = vcpu.run32, vcpu.run64, vcpu.run8
        entries = self._port_entries
        find = self._mmio.find
        ring = self._ring
        ring64, ring_index = (ring.words, ring.index) if ring is not None else (run64, 0)
        polls: frozenset[int] = ring.polls if ring is not None else frozenset()
        poll = self._polled.get
        while True:
            if call() == 0:
                polled = poll(run64[_UNION64])
                if polled is not None and run32[_REASON32] == KVM_EXIT_IO:
                    uart, at = polled
                    value = uart.polled
                    if value >= 0:
                        run8[at] = value
                        continue
                if ring is not None:
                    ends = ring64[ring_index]
                    if ends >> 32 != ends & 0xFFFF_FFFF and run64[_UNION64] not in polls:
                        ring.drain()
                reason = run32[_REASON32]
                if reason == KVM_EXIT_IO:
                    word = run64[_UNION64]
                    entry = entries.get(word)
                    if entry is None:
                        self._port(word)
                        continue
                    method, offset, size, view, at = entry
                    if word & 1:
                        method(offset, size, view[at])
                    else:
                        view[at] = method(offset, size)
                elif reason == KVM_EXIT_MMIO:
                    address = run64[_UNION64]
                    flags = run64[_MMIO_LEN64]
                    size = flags & 0xFFFF_FFFF
                    found = find(address, size)
                    if found is None:
                        self._mmio_in_parts(address, size, flags >> 32 & 1)
                    elif flags >> 32 & 1:
                        value = int.from_bytes(run8[_MMIO_DATA8 : _MMIO_DATA8 + size], "little")
                        found[0].write(found[1], size, value)
                    else:
                        value = found[0].read(found[1], size)
                        run8[_MMIO_DATA8 : _MMIO_DATA8 + size] = value.to_bytes(size, "little")
                elif not self._other(reason):
                    return False
            else:
                code = vcpu.last_errno()
                if ring is not None:
                    ring.drain()
                if code == errno.EAGAIN and not self.index and not run32[_REASON32]:
                    # A CPU that waits for its start has it, too; the first one does not wait.
                    sentence = str(no_thread("KVM"))
                    self._owner.end(Ending(StartError.exit_code, "start", INFERRED, sentence))
                    return False
                if code in (errno.EINTR, errno.EAGAIN):
                    self._kick.consume()
                    if not self._owner.checkpoint(self.vcpu):
                        return False
                else:
                    self._owner.cannot_go_on(vcpu, self.index, 0, code)
                    return False

    def _port(self, word: int) -> None:
        """Port I/O without an entry: string instructions, unclaimed ports, the first of any other access."""
        outward, size, port, count = word & 0xFF, word >> 8 & 0xFF, word >> 16 & 0xFFFF, word >> 32
        vcpu, bus = self.vcpu, self._ports
        data = vcpu.run64[_DATA_OFFSET64]
        view, at = {1: vcpu.run8, 2: vcpu.run16, 4: vcpu.run32}[size], data // size
        found = bus.find(port, size)
        if found is not None and count == 1:
            device, offset = found
            method = device.write if outward else device.read
            self._port_entries[word] = (method, offset, size, view, at)
            if self._ring is not None and word in self._ring.polls:
                self._polled[word] = device, at
        if found is not None and outward and size == 1:
            found[0].write_many(found[1], bytes(view[at : at + count]))
            self._owner.first_write(port)
            return
        for i in range(at, at + count):
            if outward:
                bus.write(port, size, view[i])
            else:
                view[i] = bus.read(port, size)

    def _mmio_in_parts(self, address: int, size: int, is_write: int) -> None:
        """Memory-mapped I/O that no device gets whole."""
        data = self.vcpu.run8[_MMIO_DATA8 : _MMIO_DATA8 + size]
        if is_write:
            self._mmio.write(address, size, int.from_bytes(data, "little"))
        else:
            data[:] = self._mmio.read(address, size).to_bytes(size, "little")

    def _other(self, reason: int) -> bool:
        """Exits that are rare or final. False when the machine ends."""
        if reason == KVM_EXIT_INTR:
            return self._owner.checkpoint(self.vcpu)
        if reason == KVM_EXIT_SYSTEM_EVENT:
            return self._owner.system_event(self.vcpu.run32[_UNION64 * 2])
        self._owner.cannot_go_on(self.vcpu, self.index, reason)
        return False

    def _device_of_exit(self) -> str:
        """The name of the device that the last exit accessed."""
        vcpu = self.vcpu
        if vcpu.run32[_REASON32] == KVM_EXIT_IO:
            word = vcpu.run64[_UNION64]
            device = self._ports.owner(word >> 16 & 0xFFFF, word >> 8 & 0xFF)
        else:
            device = self._mmio.owner(vcpu.run64[_UNION64], vcpu.run64[_MMIO_LEN64] & 0xFFFF_FFFF)
        return device.name if device is not None else "the VMM"
