"""What every architecture's part of a machine has, for type checkers and readers: no run imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.arch.events import Events
    from pyvmm.backends.base import CharBackend
    from pyvmm.board.board import Board
    from pyvmm.board.device import Line
    from pyvmm.board.devices import DeviceTable
    from pyvmm.board.timers import Timers
    from pyvmm.boot.entry import Entry
    from pyvmm.config import Config
    from pyvmm.loop import Loop
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.pykvm import Kvm, Vcpu, Vm


class Chips(Protocol):
    """What ``chips.create`` made in the kernel."""

    def close(self) -> None:
        """Give back what must be given back before the VM."""


class Rom(Protocol):
    """Firmware that is not in RAM."""

    data: bytes

    @property
    def places(self) -> Sequence[tuple[int, int, int, str]]:
        """``(base, offset, size, name)`` of each place the guest sees *data*, or zeroes behind it, at."""


class ReadRom(Protocol):
    """Checks firmware's bytes."""

    def __call__(self, data: bytes | memoryview, config: Config) -> Rom | None:
        """The ROM, or None where the firmware goes to RAM. Raises ImageError."""


class ConsolePort(Protocol):
    """The serial port a console is on."""

    def tap(self, observer: Callable[[bytes], object]) -> None:
        """Also give ``observer(data)`` what the guest sends."""


class Platform(Protocol):
    """Everything of a machine that is its architecture's own. The order of use is that of the methods.

    Made of a Config and what ``chips.create`` returned; raises ConfigError for what it has not.
    """

    #: Bytes of a virtio device's registers.
    virtio_size: int
    #: What Linux calls the first serial port, and the one ``exec`` speaks through.
    console_name: str
    channel_name: str
    #: What else a Linux kernel is told when the user says nothing.
    kernel_words: str
    #: Virtio devices to announce: (address of the registers' page, interrupt).
    virtio: Sequence[tuple[int, int]]
    #: Registers whose writes KVM may queue from the start on: (address, size).
    coalesced: Sequence[tuple[int, int]]
    #: Where I/O ports lie among the addresses; None where they are a space of their own.
    port_base: int | None
    #: What the run page's word of an exit holds when the guest only polls for what it wrote.
    polls: frozenset[int]

    def create_board(self) -> Board:
        """A board with the places that are taken before any device comes."""

    def prepare(self, kvm: Kvm, vm: Vm) -> None:
        """Find out what the processor offers; raises StartError for what was insisted on and is not there."""

    def add_devices(
        self,
        devices: DeviceTable,
        loop: Loop,
        timers: Timers,
        events: Events,
        memory: GuestMemory,
        console: CharBackend,
        channel: CharBackend | None,
    ) -> ConsolePort:
        """Add the platform's devices to *devices*; returns the console's port.

        :param loop: for what stands behind the serial ports
        :param timers: the machine's time, which stands still while it is paused
        """

    def prepare_vcpu(self, vcpu: Vcpu, index: int) -> None:
        """What one vCPU is."""

    def finish_vcpus(self) -> None:
        """All vCPUs are made; virtio devices come next."""

    def line(self, vm: Vm, gsi: int) -> Line:
        """Interrupt *gsi*, the number that KVM's irqfd has for it, too."""

    def load_kernel(
        self, memory: GuestMemory, kernel: memoryview, cmdline: str, initrds: Sequence[bytes | memoryview]
    ) -> Entry:
        """A kernel and all that goes with it into memory."""

    def load_firmware(self, memory: GuestMemory, data: memoryview, rom: Any) -> Entry:
        """Firmware and what it is told into memory; *rom*, a Rom or None, is mapped already."""

    def enter(self, vcpu: Vcpu, entry: Entry) -> None:
        """Put the first CPU where the loader said."""

    def paused(self, vcpu: Vcpu) -> None:
        """Before *vcpu* runs again after a pause: tell the guest's kernel of it, where it can be told."""

    def power_button(self) -> None:
        """Ask the guest to shut down."""
