"""One VM: built from a Config, run, paused, ended, closed."""

from __future__ import annotations

import _thread
import sys

from pyvmm.arch import native
from pyvmm.arch.events import Events
from pyvmm.board.bus import Bus
from pyvmm.board.space import MMIO, PORT, RAM, ROM
from pyvmm.errors import GuestError, PyvmmError, StartError
from pyvmm.loop import Loop
from pyvmm.machine.coalesced import TICK, CoalescedRing
from pyvmm.machine.console_log import ConsoleLog
from pyvmm.machine.ending import (
    CRASHED,
    DEVICE_FAILED,
    FATAL,
    INFERRED,
    OK,
    STOPPED,
    TOLD,
    UNKNOWN,
    UNSUPPORTED,
    WATCHDOG,
    Ending,
    debug_exit,
)
from pyvmm.machine.gate import Gate
from pyvmm.machine.memory import regions_of
from pyvmm.machine.payload import load_image, read_rom
from pyvmm.machine.vcpu import VcpuThread
from pyvmm.memory.guest import GuestMemory
from pyvmm.memory.slots import Slots
from pyvmm.pykvm import Kvm
from pyvmm.pykvm.const import (
    KVM_SYSTEM_EVENT_CRASH,
    KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.backends.base import CharBackend
    from pyvmm.config import Config
    from pyvmm.loop import Timer
    from pyvmm.pykvm import Vcpu
    from pyvmm.virtio.console.device import VirtioConsole
    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.transport.bus import VirtioBus

#: Seconds a panicked guest gets to reboot by itself (``panic=-1`` does at once).
PANIC_GRACE = 2.0
#: A busy Python thread holds the interpreter this long, in seconds, while a vCPU waits for it.
SWITCH_INTERVAL = 0.0005


class Machine:
    """A virtual machine. ``run()`` in the caller's thread, or ``start()`` and ``wait()``.

    :param config: what to build
    :param loop: the event loop to use instead of one of its own; stays the caller's
    :param console: a backend for COM1 instead of the one ``config.console`` names; stays the caller's
    :param channel: a backend for COM2, which the guest's exec server may use; a kernel then starts the init
        that has this server (docs/internals/exec-protocol.md). Without one there is neither
    :param devices: virtio devices besides those ``config`` names; the machine closes them
    :param kvm_path: the KVM device

    Raises the errors of the rooms below while it is built; whatever was made is closed then.
    """

    def __init__(
        self,
        config: Config,
        *,
        loop: Loop | None = None,
        console: CharBackend | None = None,
        channel: CharBackend | None = None,
        devices: Sequence[VirtioDevice] = (),
        kvm_path: str = "/dev/kvm",
    ) -> None:
        self.config = config
        self.ending: Ending | None = None
        #: The exception behind an ending that is a defect, for whoever debugs.
        self.error: BaseException | None = None
        self._closers: list[Callable[[], None]] = []
        self._state = _thread.allocate_lock()
        self._closing = _thread.allocate_lock()
        self._loop_running = _thread.allocate_lock()
        self._gate = Gate(config.cpus)
        self._started = False
        self._ticker: Timer | None = None
        self._coalescible: set[int] = set()
        self.ports, self.mmio = Bus(PORT), Bus(MMIO)
        self.vcpus: list[VcpuThread] = []
        self.ring: CoalescedRing | None = None
        #: The virtio devices; None without any.
        self.virtio: VirtioBus | None = None
        #: Those of them that are consoles.
        self.consoles: list[VirtioConsole] = []
        self.log = ConsoleLog(self._panicked)
        self._panic: str | None = None
        try:
            self.loop = loop if loop is not None else self._own_loop()
            self._build(console, channel, devices, kvm_path)
        except BaseException:
            self.close()
            raise

    @property
    def unclaimed_accesses(self) -> int:
        """How often the guest touched a port or an address nobody answers at."""
        buses = (self.ports, self.mmio)
        return sum(bus.unclaimed_reads + bus.unclaimed_writes for bus in buses)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Life

    def start(self) -> None:
        """Start the guest, with the event loop in a thread of its own."""
        self._start_vcpus()
        self._loop_running.acquire()
        try:
            _thread.start_new_thread(self._run_loop, ())
        except RuntimeError:
            self._loop_running.release()
            raise StartError(
                "this host gives no thread to the event loop; raise the limit of processes (ulimit -u)"
            ) from None

    def wait(self) -> Ending:
        """Wait for the end after ``start``, and close."""
        assert self._started, "wait() follows start()"
        with self._loop_running:
            pass
        return self._finish()

    def run(self) -> Ending:
        """Start the guest, turn the event loop here until the end, and close."""
        self._start_vcpus()
        self._loop_running.acquire()
        self._run_loop()
        ending = self._finish()
        if self.error is not None and not isinstance(self.error, Exception):
            raise self.error  # KeyboardInterrupt and its like are the caller's
        return ending

    def end(self, ending: Ending, error: BaseException | None = None) -> None:
        """End the machine; the first ending counts. Any thread."""
        with self._state:
            if self.ending is not None:
                return
            self.ending = ending
            self.error = error
        self._gate.remove()
        for vcpu in self.vcpus:
            vcpu.kick()
        self.loop.stop()

    def stop(self, reason: str = "stopped", detail: str = "stopped by the host") -> None:
        """End the machine at the host's wish (code 3). Any thread."""
        self.end(Ending(STOPPED, reason, TOLD, detail))

    def power_button(self) -> None:
        """Ask the guest to shut down. Any thread."""
        self._platform.power_button()

    def pause(self) -> None:
        """Stop every vCPU between two instructions; returns when all stand. Not from a vCPU's thread.

        Queued port writes are carried out then. Returns early when another thread resumes or
        ends the machine. Before the start: the guest does not begin until ``resume``.
        """
        self._gate.shut()
        for vcpu in self.vcpus:
            vcpu.kick()
        if self._started:
            self._gate.wait()

    def resume(self) -> None:
        """Let the vCPUs go on after ``pause``, however often that was called; and devices that were saved."""
        for attached in self.virtio.attached if self.virtio is not None else ():
            attached.transport.resume()
        self._gate.open()

    def close(self) -> None:
        """Give everything back. Idempotent; a running guest is stopped first.

        Any thread but a vCPU's, and not from a callback of the loop: ``end`` is for those.
        """
        if self._started:
            self.stop()
        with self._closing:
            with self._loop_running:
                pass
            for vcpu in self.vcpus:
                vcpu.join()
            if self.ring is not None:
                ring, self.ring = self.ring, None
                ring.drain()
            self._give_back()

    def at_end(self, function: Callable[[], None]) -> None:
        """Call *function* when the guest has ended and its memory and VM are still there."""
        self._closers.append(function)

    # For the vCPU threads

    def system_event(self, kind: int) -> bool:
        """The guest asked its firmware, which is KVM, for something: False when that ends the machine."""
        if kind == KVM_SYSTEM_EVENT_SHUTDOWN:
            self._guest_poweroff()
        elif kind == KVM_SYSTEM_EVENT_RESET:
            self._guest_reset("PSCI SYSTEM_RESET")
        elif kind == KVM_SYSTEM_EVENT_CRASH:
            self._guest_ended(Ending(CRASHED, "panic", TOLD, "the guest told its firmware that it crashed"))
        else:
            return True
        return False

    def checkpoint(self, vcpu: Vcpu) -> bool:
        """A vCPU left KVM_RUN without an exit: wait while paused. False when the machine ends."""
        if self.ending is None:
            self._gate.stand()
        return self.ending is None

    def cannot_go_on(self, vcpu: Vcpu, index: int, reason: int, number: int = 0) -> None:
        """A vCPU cannot be run any further: end with what its state tells."""
        from pyvmm.machine.diagnose import diagnose  # most guests end without it

        self.end(diagnose(vcpu, index, self.memory, reason, number))

    def first_write(self, port: int) -> None:
        """The guest wrote *port* for the first time: let KVM queue the writes to come, where it may."""
        with self._state:
            if port not in self._coalescible:
                return
            self._coalescible.remove(port)
            if self._ticker is None:
                self._begin_ticking()
        self.vm.register_coalesced_mmio(port, 1, pio=True)

    def device_failed(self, name: str, error: Exception) -> None:
        """What device *name* raised ends the machine. Any thread."""
        if isinstance(error, GuestError):
            self.end(Ending(UNSUPPORTED, "unsupported", TOLD, str(error)))
        else:
            what = f" failed: {error}"
            if not isinstance(error, PyvmmError):  # a defect: whoever wrote the device wants the place
                from pyvmm.host import blame

                what = f" failed in {blame.place(error)}: {blame.describe(error)}"
            self.end(Ending(DEVICE_FAILED, "device", TOLD, name + what), error)

    def _give_back(self) -> None:
        first: Exception | None = None
        while self._closers:
            try:
                self._closers.pop()()
            except Exception as error:  # the others are closed all the same
                first = first or error
        if first is not None:
            raise first

    def _own_loop(self) -> Loop:
        loop = Loop()
        self._closers.append(loop.close)
        return loop

    # Building, in the order things depend on each other

    def _build(
        self,
        console: CharBackend | None,
        channel: CharBackend | None,
        devices: Sequence[VirtioDevice],
        kvm_path: str,
    ) -> None:
        config = self.config
        rom = read_rom(config)
        share = config.shares_memory or any(device.shares_memory for device in devices)
        regions = regions_of(config, rom, native.chips.ram_gap(config), share)
        self._closers += [region.host.close for region in regions]
        self.memory = GuestMemory(regions)
        self._closers.append(self.memory.close)  # its views, too, hold the host's pages
        kvm = Kvm(kvm_path)
        self._closers.append(kvm.close)
        vm = self.vm = kvm.create_vm(native.chips.machine_type(kvm, self.memory.regions[-1].end))
        self._closers.append(vm.close)
        # Memslots first: one set after the interrupt controllers waits 7 ms for their grace period.
        Slots(vm, self.memory).install()
        chips = native.chips.create(vm, config)
        if chips is not None:
            self._closers.append(chips.close)
        # A VM cannot be closed in the 20 ms after that, until the grace period is over. The rest
        # of the house is loaded meanwhile: a guest that ends at once ends that much sooner.
        from pyvmm.backends.spec import make_backend

        platform = self._platform = native.platform()(config, chips)
        board = self.board = platform.create_board()
        for region in self.memory.regions:
            board.place(MMIO, region.gpa, region.size, region.name, ROM if region.readonly else RAM)
        platform.prepare(kvm, vm)
        if console is None:
            console = make_backend(config.console, on_quit=self._user_quit)
            self._closers.append(console.close)
        self._closers += [self.mmio.close, self.ports.close]
        events = Events(self._guest_poweroff, self._guest_reset, self._guest_debug_exit, self._guest_watchdog)
        serial = platform.add_devices(
            vm, self.loop, board, self.ports, self.mmio, events, self.memory, console, channel
        )
        serial.tap(self.log.feed)
        for index in range(config.cpus):
            vcpu = vm.create_vcpu(index)
            self._closers.append(vcpu.close)
            platform.prepare_vcpu(vcpu, index)
            if index == 0:
                self.ring = self._create_ring(kvm, vcpu)
            self.vcpus.append(VcpuThread(self, vcpu, index, self.ports, self.mmio, self.ring))
        platform.finish_vcpus()
        if devices or config.devices or config.looked_at:
            self._add_virtio(devices)
        platform.enter(
            self.vcpus[0].vcpu, load_image(config, self.memory, platform, rom, channel is not None)
        )

    def _add_virtio(self, devices: Sequence[VirtioDevice]) -> None:
        from pyvmm.virtio.ids import CONSOLE
        from pyvmm.virtio.options import make_devices
        from pyvmm.virtio.transport.bus import VirtioBus

        bus = self.virtio = VirtioBus(
            self.vm,
            self.board,
            self.mmio,
            lambda gsi: self._platform.line(self.vm, gsi),
            self.memory,
            self.loop,
            self.device_failed,
        )
        self._closers.append(bus.close)
        waiting = list(devices)
        try:
            for made in make_devices(self.config.devices, self._user_quit, self.config.name):
                waiting.insert(len(waiting) - len(devices), made)  # what the config names comes first
            while waiting:
                bus.attach(waiting[0])
                del waiting[0]
        finally:
            for device in waiting:  # those that found no place
                device.close()
        if self.config.looked_at:
            from pyvmm.virtio.tools.install import install

            install(bus.attached, self.config)
        bus.spare_exits(native.chips.READS_SNOOP)
        if any(attached.device.device_id == CONSOLE for attached in bus.attached):
            self._watch_consoles(bus)
        self._platform.virtio = [(attached.base, attached.gsi) for attached in bus.attached]

    def _watch_consoles(self, bus: VirtioBus) -> None:
        from pyvmm.virtio.console.device import VirtioConsole

        self.consoles = [a.device for a in bus.attached if isinstance(a.device, VirtioConsole)]
        for console in self.consoles:
            console.tap(self.log.feed)

    def _create_ring(self, kvm: Kvm, vcpu: Vcpu) -> CoalescedRing | None:
        chips, platform = native.chips, self._platform
        page = kvm.check_extension("COALESCED_MMIO")
        if not page or not kvm.check_extension(chips.COALESCED_NEEDS):
            return None
        self._coalescible = set(chips.COALESCED_PORTS)
        for address, size in platform.coalesced:
            self.vm.register_coalesced_mmio(address, size)
        bus = self.ports if chips.COALESCED_SPACE == PORT else self.mmio
        return CoalescedRing(vcpu, page, bus, self.device_failed, platform.polls)

    # Running and ending

    def _start_vcpus(self) -> None:
        if self.ending is not None or self._started:
            raise PyvmmError("a machine runs once; build a new one from its config")
        self._started = True
        if sys.getswitchinterval() > SWITCH_INTERVAL:
            sys.setswitchinterval(SWITCH_INTERVAL)
        if self.config.timeout is not None:
            self._closers.append(self.loop.call_later(self.config.timeout, self._timed_out).cancel)
        if self._platform.coalesced:
            self._begin_ticking()
        for vcpu in self.vcpus:
            vcpu.start()

    def _begin_ticking(self) -> None:
        self._closers.append(self._stop_ticking)
        self._ticker = self.loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        if self.ring is None:
            return
        self._ticker = self.loop.call_later(self.ring.tick(), self._tick)

    def _stop_ticking(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()

    def _run_loop(self) -> None:
        """Turn the loop until the end; ``_loop_running`` is held meanwhile."""
        try:
            self.loop.run()
        except BaseException as error:  # nothing may vanish with the thread
            self.end(Ending(FATAL, "internal", UNKNOWN, f"event loop: {error!r}"), error)
        finally:
            self._loop_running.release()

    def _finish(self) -> Ending:
        self.close()
        assert self.ending is not None
        return self.ending

    def _timed_out(self) -> None:
        self.stop("timeout", f"the guest did not end within {self.config.timeout:g} seconds")

    def _user_quit(self) -> None:
        self.stop("stopped", "ended by the user")

    def _guest_poweroff(self) -> None:
        self._guest_ended(Ending(OK, "poweroff", TOLD, "the guest powered off"))

    def _guest_reset(self, how: str) -> None:
        self._guest_ended(Ending(OK, "reboot", TOLD, f"the guest asked for a reset ({how})"))

    def _guest_watchdog(self) -> None:
        self._guest_ended(Ending(WATCHDOG, "watchdog", TOLD, "the guest did not feed its watchdog in time"))

    def _guest_debug_exit(self, value: int) -> None:
        self.end(debug_exit(value))

    def _guest_ended(self, ending: Ending) -> None:
        if self.ring is not None:
            self.ring.drain()  # the last words may tell of a panic
        if self._panic is not None:
            ending = self._panic_ending()
        self.end(ending)

    def _panicked(self, line: str) -> None:
        self._panic = line
        timer = self.loop.call_later(PANIC_GRACE, lambda: self.end(self._panic_ending()))
        self._closers.append(timer.cancel)

    def _panic_ending(self) -> Ending:
        return Ending(CRASHED, "panic", INFERRED, f"the guest's console says: {self._panic}")
