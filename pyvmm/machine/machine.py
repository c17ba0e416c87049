"""One VM: built from a Config, run, paused, ended, closed."""

from __future__ import annotations

import _thread
import sys

from pyvmm.arch.events import Events
from pyvmm.arch.x86_64.platform import Platform
from pyvmm.backends.spec import make_backend
from pyvmm.board.bus import Bus
from pyvmm.board.space import MMIO, PORT, RAM, ROM
from pyvmm.errors import PyvmmError
from pyvmm.loop import Loop
from pyvmm.machine.coalesced import TICK, CoalescedRing
from pyvmm.machine.console_log import ConsoleLog
from pyvmm.machine.ending import CRASHED, FATAL, INFERRED, OK, STOPPED, TOLD, UNKNOWN, Ending, debug_exit
from pyvmm.machine.image import load_image, memory_parts, read_rom, rom_regions
from pyvmm.machine.vcpu import VcpuThread
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.layout import assemble
from pyvmm.memory.slots import Slots
from pyvmm.pykvm import Kvm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.backends.base import CharBackend
    from pyvmm.config import Config
    from pyvmm.pykvm import Vcpu

#: Seconds a panicked guest gets to reboot by itself (``panic=-1`` does at once).
PANIC_GRACE = 2.0
#: A busy Python thread holds the interpreter this long, in seconds, while a vCPU waits for it.
SWITCH_INTERVAL = 0.0005


class Machine:
    """A virtual machine. ``run()`` in the caller's thread, or ``start()`` and ``wait()``.

    :param config: what to build
    :param loop: the event loop to use instead of one of its own; stays the caller's
    :param console: a backend for COM1 instead of the one ``config.console`` names; stays the caller's
    :param channel: a backend for COM2; without one there is no COM2
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
        kvm_path: str = "/dev/kvm",
    ) -> None:
        self.config = config
        self.ending: Ending | None = None
        #: The exception behind an ending that is a defect, for whoever debugs.
        self.error: BaseException | None = None
        self.unclaimed_accesses = 0
        self._closers: list[Callable[[], None]] = []
        self._state = _thread.allocate_lock()
        self._resumed = _thread.allocate_lock()
        self._parked = 0
        self._paused = False
        self._pausing = False
        self._all_parked = _thread.allocate_lock()
        self._all_parked.acquire()
        self._loop_done: _thread.LockType | None = None
        self._started = False
        self.vcpus: list[VcpuThread] = []
        self.ring: CoalescedRing | None = None
        self.log = ConsoleLog(self._panicked)
        self._panic: str | None = None
        try:
            self.loop = loop if loop is not None else self._own_loop()
            self._build(console, channel, kvm_path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Life

    def start(self) -> None:
        """Start the guest, with the event loop in a thread of its own."""
        self._loop_done = _thread.allocate_lock()
        self._loop_done.acquire()
        self._start_vcpus()
        _thread.start_new_thread(self._loop_main, ())

    def wait(self) -> Ending:
        """Wait for the end after ``start``, and close."""
        assert self._loop_done is not None, "wait() follows start()"
        with self._loop_done:
            pass
        return self._finish()

    def run(self) -> Ending:
        """Start the guest, turn the event loop here until the end, and close."""
        self._start_vcpus()
        try:
            self.loop.run()
        except BaseException as error:
            self.end(Ending(FATAL, "internal", UNKNOWN, f"event loop: {error!r}"), error)
            if not isinstance(error, Exception):
                self._finish()
                raise
        return self._finish()

    def end(self, ending: Ending, error: BaseException | None = None) -> None:
        """End the machine; the first ending counts. Any thread."""
        with self._state:
            if self.ending is not None:
                return
            self.ending = ending
            self.error = error
            if self._paused:
                self._paused = False
                self._resumed.release()
            if self._pausing:
                self._pausing = False
                self._all_parked.release()
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
        """Stop every vCPU between two instructions; returns when all stand. Not from a vCPU's thread."""
        with self._state:
            if self._paused or self.ending is not None:
                return
            self._paused = True
            self._resumed.acquire()
            self._pausing = self._parked < len(self.vcpus)
            pausing = self._pausing
        if pausing:
            for vcpu in self.vcpus:
                vcpu.kick()
            self._all_parked.acquire()
        if self.ring is not None:
            self.ring.drain()

    def resume(self) -> None:
        """Let the vCPUs go on after ``pause``."""
        with self._state:
            if self._paused:
                self._paused = False
                self._resumed.release()

    def close(self) -> None:
        """Give everything back. Idempotent; a running guest is stopped first."""
        if self._started and self.ending is None:
            self.stop()
        for vcpu in self.vcpus:
            vcpu.join()
        while self._closers:
            self._closers.pop()()

    # For the vCPU threads

    def checkpoint(self) -> bool:
        """A vCPU came out of KVM_RUN because somebody wanted it: False when the machine ends."""
        with self._state:
            if self.ending is not None:
                return False
            if not self._paused:
                return True
            self._parked += 1
            if self._pausing and self._parked == len(self.vcpus):
                self._pausing = False
                self._all_parked.release()
        self._wait_for_resume()
        return self.ending is None

    def _wait_for_resume(self) -> None:
        while True:
            with self._resumed:
                pass
            with self._state:
                if not self._paused:  # else paused anew before this thread woke: still parked
                    self._parked -= 1
                    return

    def unclaimed(self, space: str, address: int, size: int, is_write: bool) -> None:
        """The guest touched what nobody answers at; counted, the bus has answered."""
        self.unclaimed_accesses += 1

    def _own_loop(self) -> Loop:
        loop = Loop()
        self._closers.append(loop.close)
        return loop

    # Building, in the order things depend on each other

    def _build(self, console: CharBackend | None, channel: CharBackend | None, kvm_path: str) -> None:
        config = self.config
        platform = self._platform = Platform(config)
        board = self.board = platform.create_board()
        self.ports, self.mmio = Bus(PORT), Bus(MMIO)
        rom = read_rom(config)
        regions: list[Region] = []
        for some in (assemble(memory_parts(config), *platform.GAP), rom_regions(rom)):
            regions += some
            self._closers += [region.host.close for region in some]
        self.memory = GuestMemory(regions)
        for region in self.memory.regions:
            board.place(MMIO, region.gpa, region.size, region.name, ROM if region.readonly else RAM)
        kvm = Kvm(kvm_path)
        self._closers.append(kvm.close)
        vm = self.vm = kvm.create_vm()
        self._closers.append(vm.close)
        platform.prepare_vm(kvm, vm)
        Slots(vm, self.memory).install()
        if console is None:
            console = make_backend(config.console, on_quit=self._user_quit)
            self._closers.append(console.close)
        events = Events(self._guest_poweroff, self._guest_reset, self._guest_debug_exit)
        serial = platform.add_devices(vm, self.loop, board, self.ports, events, self.memory, console, channel)
        serial.tap(self.log.feed)
        for index in range(config.cpus):
            vcpu = vm.create_vcpu(index)
            self._closers.append(vcpu.close)
            platform.prepare_vcpu(vcpu, index)
            if index == 0:
                self.ring = self._coalesce(kvm, vcpu)
            self.vcpus.append(VcpuThread(self, vcpu, index, self.ports, self.mmio, self.ring))
        platform.enter(self.vcpus[0].vcpu, load_image(config, self.memory, platform, rom))

    def _coalesce(self, kvm: Kvm, vcpu: Vcpu) -> CoalescedRing | None:
        page = kvm.check_extension("COALESCED_MMIO")
        if not page or not kvm.check_extension("COALESCED_PIO"):
            return None
        for port in self._platform.coalesced_ports:
            self.vm.register_coalesced_mmio(port, 1, pio=True)
        return CoalescedRing(vcpu, page, self.ports)

    # Running and ending

    def _start_vcpus(self) -> None:
        if self.ending is not None or self._started:
            raise PyvmmError("a machine runs once; build a new one from its config")
        self._started = True
        if sys.getswitchinterval() > SWITCH_INTERVAL:
            sys.setswitchinterval(SWITCH_INTERVAL)
        if self.config.timeout is not None:
            self.loop.call_later(self.config.timeout, self._timed_out)
        if self.ring is not None:
            self._tick()
        for vcpu in self.vcpus:
            vcpu.start()

    def _tick(self) -> None:
        assert self.ring is not None
        self.ring.drain()
        self.loop.call_later(TICK, self._tick)

    def _loop_main(self) -> None:
        assert self._loop_done is not None
        try:
            self.loop.run()
        except BaseException as error:  # nothing may vanish with the thread
            self.end(Ending(FATAL, "internal", UNKNOWN, f"event loop: {error!r}"), error)
        finally:
            self._loop_done.release()

    def _finish(self) -> Ending:
        for vcpu in self.vcpus:
            vcpu.join()
        if self.ring is not None:
            self.ring.drain()
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
        self.loop.call_later(PANIC_GRACE, lambda: self.end(self._panic_ending()))

    def _panic_ending(self) -> Ending:
        return Ending(CRASHED, "panic", INFERRED, f"the guest's console says: {self._panic}")
