"""One VM: built from a Config, run, paused, ended, closed."""

from __future__ import annotations

import _thread
import sys

from pyvmm.arch import native
from pyvmm.board.bus import Bus
from pyvmm.board.devices import DeviceTable
from pyvmm.board.space import MMIO, PORT, RAM, ROM
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.loop import Loop
from pyvmm.machine.clock import MachineClock
from pyvmm.machine.coalesced import coalesce
from pyvmm.machine.ending import FATAL, STOPPED, TOLD, UNKNOWN, Ending
from pyvmm.machine.exits import ExitHandler
from pyvmm.machine.gate import Gate
from pyvmm.machine.loop_run import LoopRun
from pyvmm.machine.memory import regions_of
from pyvmm.machine.payload import load_image, read_rom
from pyvmm.machine.reports import GuestReports
from pyvmm.machine.vcpu import VcpuThread
from pyvmm.memory.guest import GuestMemory
from pyvmm.memory.slots import Slots
from pyvmm.pykvm import Kvm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyvmm.backends.base import CharBackend
    from pyvmm.backends.host_objects import HostObjects
    from pyvmm.board.device import Device
    from pyvmm.board.devices import Placement
    from pyvmm.config import Config
    from pyvmm.machine.coalesced import Coalescing
    from pyvmm.machine.devices import DeviceNames
    from pyvmm.virtio.console.device import VirtioConsole
    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.transport.bus import VirtioBus

#: Python's thread switch interval, in seconds: how long a vCPU waits for the interpreter lock at most.
SWITCH_INTERVAL = 0.0005
#: Seconds after its start from which on it is noticed that the guest has halted for good.
HALT_WATCHED = 0.25


class Machine:
    """A virtual machine. ``run()`` in the caller's thread, or ``start()`` and ``wait()``.

    :param config: what to build
    :param loop: the event loop to use instead of one of its own; stays the caller's
    :param console: a backend for COM1 instead of the one ``config.console`` names; stays the caller's
    :param channel: a backend for COM2, which the guest's exec server may use; a kernel then starts the init
        that has this server (docs/internals/exec-protocol.md). Without one there is neither
    :param console_shell: with *channel*: this init gives a shell on the console, too; its end powers off
    :param devices: virtio devices besides those ``config`` names; the machine closes them
    :param made: the devices that ``config`` names, if they were made before; the machine closes them
    :param host_objects: keeps open what the config's devices have on the host, for the next machine; stays
        the caller's
    :param kvm_path: the KVM device

    Raises ConfigError for what the config asks for and cannot be, StartError (ImageError, HostMemoryError,
    KvmError, ...) for what this host or a file cannot do; whatever was made is closed then.
    """

    def __init__(
        self,
        config: Config,
        *,
        loop: Loop | None = None,
        console: CharBackend | None = None,
        channel: CharBackend | None = None,
        console_shell: bool = False,
        devices: Sequence[VirtioDevice] = (),
        made: Sequence[VirtioDevice] | None = None,
        host_objects: HostObjects | None = None,
        kvm_path: str = "/dev/kvm",
    ) -> None:
        if config.kernel is not None:
            from pyvmm.machine.boot_files import with_boot_files

            config = with_boot_files(config)
        self.config = config
        self._made = made
        self._host_objects = host_objects
        self.ending: Ending | None = None
        #: The exception that caused the ending, if one did.
        self.error: BaseException | None = None
        self._closers: list[Callable[[], None]] = []
        self._starters: list[Callable[[], None]] = []
        self._state = _thread.allocate_lock()
        self._closing = _thread.allocate_lock()
        self._pausing = _thread.allocate_lock()
        self._gate = Gate(
            config.cpus,
            lambda: self._platform.stopped(self.vcpus[0].vcpu),
            lambda: self._platform.continues([thread.vcpu for thread in self.vcpus]),
        )
        self._started = False
        self.ports, self.mmio = Bus(PORT), Bus(MMIO)
        self.vcpus: list[VcpuThread] = []
        self._coalescing: Coalescing | None = None
        #: The virtio devices; None without any.
        self.virtio: VirtioBus | None = None
        #: Those of them that are consoles.
        self.consoles: list[VirtioConsole] = []
        try:
            if loop is None:
                loop = Loop()
                self._closers.append(loop.close)
            self.loop = loop
            #: The machine's time, for devices that act by themselves; it stands still during a pause.
            self.clock = MachineClock(self.loop)
            self._closers.append(self.clock.close)
            self._loop_run = LoopRun(self.loop, self._loop_failed)
            self._reports = GuestReports(self.clock, self.end, self._drain)
            #: The last 16 KiB of what the guest printed on its consoles.
            self.log = self._reports.log
            self._build(console, channel, console_shell, devices, kvm_path)
        except BaseException:
            self.close()
            raise

    @property
    def unclaimed_accesses(self) -> int:
        """How many of the guest's accesses were to ports and addresses that no device has."""
        buses = (self.ports, self.mmio)
        return sum(bus.unclaimed_reads + bus.unclaimed_writes for bus in buses)

    @property
    def devices(self) -> DeviceNames:
        """The emulated devices and the virtio devices by name: ``COM1``, ``RTC``, ``disk0``.

        A new dictionary each time. A name that no device has raises UnknownDeviceError, which is a KeyError.
        """
        from pyvmm.machine.devices import DeviceNames

        names = DeviceNames(self._table.items())
        for attached in self.virtio.attached if self.virtio is not None else ():
            names[attached.name] = attached.device
        return names

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Building

    def add_device(
        self,
        device: Device,
        *,
        size: int,
        port: int | None = None,
        address: int | None = None,
        irq: int | bool | None = None,
        name: str | None = None,
    ) -> Placement:
        """Put an emulated device into the machine, before it starts; the machine closes it at its end.

        The guest finds it by its place alone: no table or device tree tells of it. Virtio devices, which are
        announced, are given to ``Machine(devices=[...])``.

        :param device: gets the guest's accesses to its registers, in the threads of the vCPUs
        :param size: bytes of its registers, from 1 on
        :param port: its first I/O port, 0 to 0xffff; on arm64, port P is the byte at 0x3eff0000 + P
        :param address: the guest-physical address of its registers instead; without either it gets the first
            free page among those for devices (docs/reference/address-maps.md)
        :param irq: True for the first free interrupt, or its number: an I/O APIC pin on x86-64, a shared
            peripheral interrupt (INTID - 32) on arm64; ``device.line`` drives it
        :param name: what it is called in ``devices`` and in messages, instead of ``device.name``

        Raises PlacementError for a place, an interrupt or a name that is taken or out of range, ConfigError
        for both a port and an address and for what is not a Device, PyvmmError once the machine has started.
        """
        from pyvmm.board.device import Device

        if not isinstance(device, Device):
            raise ConfigError(
                f"{device!r} is not a pyvmm.Device; virtio devices go to Machine(devices=[...])"
            )
        if self._started or self.ending is not None:
            raise PyvmmError("a device is added before the machine starts; build a new machine for it")
        placement = self._table.add(name or device.name, device, size, port=port, address=address, irq=irq)
        if name is not None:
            device.name = name
        return placement

    # Life

    def start(self) -> None:
        """Start the guest, with the event loop in a thread of its own.

        Raises PyvmmError for a machine that was started before, StartError when the host has no thread to
        give.
        """
        self._start_vcpus()
        self._loop_run.start()

    def wait(self) -> Ending:
        """Wait until the machine has ended, after ``start``; close it and return the ending.

        Raises what a device raises while it is closed.
        """
        assert self._started, "wait() follows start()"
        self._loop_run.wait()
        return self._finish()

    def run(self) -> Ending:
        """Start the guest, run the event loop in this thread until the end, close, and return the ending.

        Raises PyvmmError for a machine that was started before, StartError when the host has no thread to
        give, what a device raises while it is closed, and KeyboardInterrupt and its like from the event loop.
        """
        self._start_vcpus()
        self._loop_run.run()
        ending = self._finish()
        if self.error is not None and not isinstance(self.error, Exception):
            raise self.error  # KeyboardInterrupt and its like
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
        """End the machine with code 3, stopped by the host. Any thread."""
        self.end(Ending(STOPPED, reason, TOLD, detail))

    def power_button(self) -> None:
        """Press the power button: ask the guest to shut down. Any thread. The guest may ignore it."""
        self._platform.power_button()

    @property
    def paused(self) -> bool:
        """Whether ``pause`` was called and ``resume`` was not yet."""
        return self.clock.stopped

    def pause(self) -> None:
        """Stop every vCPU between two instructions and the machine's clock; returns when all have stopped.

        Timers of emulated and virtio devices, ``timeout`` and the silence that ends a panicked guest stand
        still until ``resume`` and have then what was left of their seconds. The host's date, which a guest's
        real-time clock shows, goes on. Queued port writes are carried out before this returns. Input from the
        host and virtio queues are still served.

        Any thread, but not a vCPU's. Returns early when another thread resumes or ends the machine. Before
        the start: the guest does not begin until ``resume``.
        """
        with self._pausing:
            self.clock.stop()
            self._gate.shut()
        for vcpu in self.vcpus:
            vcpu.kick()
        if self._started:
            self._gate.wait()
        self.clock.settle()

    def resume(self) -> None:
        """Let vCPUs and clock go on after ``pause``, however often that was called.

        Virtio devices that were saved go on, too. A guest that uses kvm-clock is told that it was stopped, so
        that its soft lockup watchdog does not report the pause; an arm64 guest's counter stood still. Any
        thread. Raises KvmError.
        """
        for attached in self.virtio.attached if self.virtio is not None else ():
            attached.transport.resume()
        for device in self._table.values():
            device.resume()
        with self._pausing:
            self.clock.start()
            self._gate.open()

    def close(self) -> None:
        """Release everything. Idempotent; a running guest is stopped first.

        Any thread but a vCPU's, and not from a callback of the loop: those call ``end``. Raises what a device
        raises while it is closed, after the others were closed.
        """
        if self._started:
            self.stop()
        if self.virtio is not None:
            self.virtio.ending()
        with self._closing:
            if self._started:
                self._loop_run.wait()
            for vcpu in self.vcpus:
                vcpu.join()
            self._drain()
            self._coalescing = None  # the ring is unmapped with the vCPU
            self._release()

    def at_start(self, function: Callable[[], None]) -> None:
        """Call *function* when the machine is started, before any of its vCPUs runs and any thread of theirs.

        In the thread that calls ``run`` or ``start``; those raise what it raises, and no guest ran.
        """
        self._starters.append(function)

    def at_end(self, function: Callable[[], None]) -> None:
        """Call *function* when the guest has ended, before its memory and its VM are closed."""
        self._closers.append(function)

    def _release(self) -> None:
        first: Exception | None = None
        while self._closers:
            try:
                self._closers.pop()()
            except Exception as error:  # the others are closed nevertheless
                first = first or error
        if first is not None:
            raise first

    # Building, in the order things depend on each other

    def _build(
        self,
        console: CharBackend | None,
        channel: CharBackend | None,
        console_shell: bool,
        devices: Sequence[VirtioDevice],
        kvm_path: str,
    ) -> None:
        config = self.config
        rom = read_rom(config)
        native.chips.check_ram(config.memory_size)
        share = config.shares_memory or any(device.shares_memory for device in devices)
        regions = regions_of(config, rom, native.chips.ram_gap(config), share)
        self._closers += [region.host.close for region in regions]
        self.memory = GuestMemory(regions)
        self._closers.append(self.memory.close)  # its views keep the host's pages mapped
        kvm = Kvm(kvm_path)
        self._closers.append(kvm.close)
        vm = self.vm = kvm.create_vm(native.chips.machine_type(kvm, self.memory.regions[-1].end))
        self._closers.append(vm.close)
        # Memslots first: one set after the interrupt controllers waits 7 ms for their grace period.
        Slots(vm, self.memory).install()
        chips = native.chips.create(vm, config)
        if chips is not None:
            self._closers.append(chips.close)
        # For some 20 ms from now on the kernel delays the closing of the VM (a grace period). The other
        # modules are imported in that time, so that a guest that ends at once does so sooner.
        from pyvmm.backends.spec import make_backend

        platform = self._platform = native.platform()(config, chips)
        board = self.board = platform.create_board()
        for region in self.memory.regions:
            board.place(MMIO, region.gpa, region.size, region.name, ROM if region.readonly else RAM)
        platform.prepare(kvm, vm)
        if console is None:
            console = make_backend(config.console, on_quit=self._user_quit)
            self._closers.append(console.close)
        for backend in (console, channel):
            if backend is not None:
                backend.open()
                self._closers.append(backend.detach)
        self._closers += [self.mmio.close, self.ports.close]
        events = self._reports.events()
        table = self._table = DeviceTable(
            board, self.ports, self.mmio, lambda irq: platform.line(vm, irq), platform.port_base
        )
        serial = platform.add_devices(table, self.loop, self.clock, events, self.memory, console, channel)
        serial.tap(self.log.feed)
        for index in range(config.cpus):
            vcpu = vm.create_vcpu(index)
            self._closers.append(vcpu.close)
            platform.prepare_vcpu(vcpu, index)
            if index == 0:
                coalescing = self._coalescing = coalesce(
                    kvm,
                    vm,
                    vcpu,
                    self.ports if native.chips.COALESCED_SPACE == PORT else self.mmio,
                    platform,
                    self.clock,
                    self._reports.device_failed,
                )
                handler = self._handler = ExitHandler(
                    self.end,
                    lambda: self.ending is not None,
                    self._gate,
                    self._reports,
                    coalescing,
                    self.memory,
                    config.kernel if config.firmware is None else config.firmware,
                    self.vcpus,
                )
                self._reports.vcpus = handler
            self.vcpus.append(VcpuThread(handler, vcpu, index, self.ports, self.mmio, coalescing.ring))
        platform.finish_vcpus()
        if devices or config.devices or config.looked_at:
            self._add_virtio(devices)
        platform.enter(
            self.vcpus[0].vcpu,
            load_image(config, self.memory, platform, rom, channel is not None, console_shell),
        )

    def _add_virtio(self, devices: Sequence[VirtioDevice]) -> None:
        from pyvmm.machine.virtio import attach_devices, consoles_of
        from pyvmm.virtio.options import make_devices
        from pyvmm.virtio.transport.bus import VirtioBus

        config = self.config
        bus = self.virtio = VirtioBus(
            self.vm,
            self.board,
            self.mmio,
            lambda gsi: self._platform.line(self.vm, gsi),
            self.memory,
            self.loop,
            self.clock.for_loop,
            self._reports.device_failed,
        )
        self._closers.append(bus.close)
        made: Iterator[VirtioDevice]
        if self._made is not None:
            made = iter(self._made)
        else:
            made = make_devices(config.devices, self._user_quit, config.name, self._host_objects)
        attach_devices(bus, self.vm, config, made, devices, self.at_end, self._host_objects)
        self.consoles = consoles_of(bus, self.log.feed)
        self._platform.virtio = [(attached.base, attached.gsi) for attached in bus.attached]

    # Running and ending

    def _start_vcpus(self) -> None:
        if self.ending is not None or self._started:
            raise PyvmmError("a machine runs once; build a new one from its config")
        self._started = True
        if sys.getswitchinterval() > SWITCH_INTERVAL:
            sys.setswitchinterval(SWITCH_INTERVAL)
        if self.config.timeout is not None:
            self.clock.call_later(self.config.timeout, self._timed_out)
        if self._platform.coalesced and self._coalescing is not None:
            self._coalescing.start()
        for function in self._starters:
            function()
        for vcpu in self.vcpus:
            vcpu.start()
        self.clock.call_later(HALT_WATCHED, self._watch_for_halt)

    def _watch_for_halt(self) -> None:
        from pyvmm.machine.halt import HaltWatch  # few guests live that long
        from pyvmm.machine.spin import SpinWatch

        seen = self.clock, self.vcpus, self.memory, self._handler.ask
        HaltWatch(*seen, self._reports.halted).start()
        SpinWatch(*seen, self._reports.spins).start()

    def _loop_failed(self, error: BaseException) -> None:
        self.end(Ending(FATAL, "internal", UNKNOWN, f"event loop: {error!r}"), error)

    def _finish(self) -> Ending:
        self.close()
        assert self.ending is not None
        return self.ending

    def _timed_out(self) -> None:
        self.stop("timeout", f"the guest did not end within {self.config.timeout:g} seconds")

    def _user_quit(self) -> None:
        self.stop("stopped", "ended by the user")

    def _drain(self) -> None:
        if self._coalescing is not None:
            self._coalescing.drain()
