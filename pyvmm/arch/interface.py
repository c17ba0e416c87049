"""What every architecture's part of a machine has. For type checkers; not imported at run time."""

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
    from pyvmm.boot.entry import BootEntry
    from pyvmm.config import Config
    from pyvmm.loop import Loop
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.pykvm import Kvm, Vcpu, Vm


class Chips(Protocol):
    """The in-kernel chips that ``chips.create`` made."""

    def close(self) -> None:
        """Close what must be closed before the VM."""


class Rom(Protocol):
    """Firmware that is a ROM."""

    data: bytes

    @property
    def places(self) -> Sequence[tuple[int, int, int, str]]:
        """``(gpa, offset, size, name)`` of each region: *size* bytes of *data* from *offset*, then zeroes."""


class ReadRom(Protocol):
    """A function that decides whether firmware is a ROM."""

    def __call__(self, data: bytes | memoryview, config: Config) -> Rom | None:
        """The ROM, or None where the firmware goes to RAM. Raises ImageError."""


class ConsolePort(Protocol):
    """The serial port a console is on."""

    def tap(self, observer: Callable[[bytes], object]) -> None:
        """Also give ``observer(data)`` what the guest sends."""


class Platform(Protocol):
    """The part of a machine that depends on its architecture. The methods are called in their order here.

    Made of a Config and of what ``chips.create`` returned; raises ConfigError for what it does not have.
    """

    #: Bytes of a virtio device's registers.
    virtio_size: int
    #: Linux's names of the first serial port, and of the one that carries the exec protocol.
    console_name: str
    channel_name: str
    #: Further parameters of the default kernel command line.
    kernel_parameters: str
    #: Virtio devices to announce: (address of the registers' page, interrupt).
    virtio: Sequence[tuple[int, int]]
    #: Registers whose writes KVM may queue from the start on: (address, size).
    coalesced: Sequence[tuple[int, int]]
    #: The guest-physical address of I/O port 0; None where ports are a space of their own.
    port_base: int | None
    #: Exits before which queued writes may stay queued; see ``CoalescedRing``.
    polls: frozenset[int]

    def create_board(self) -> Board:
        """A board with what the platform itself takes: interrupt controllers, reserved pages."""

    def prepare(self, kvm: Kvm, vm: Vm) -> None:
        """Choose the vCPUs' features. Raises StartError for a required one that KVM does not offer."""

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
        """Set up vCPU *index*, from 0: its features and initial registers. Raises KvmError."""

    def finish_vcpus(self) -> None:
        """Called when all vCPUs are made, before virtio devices are attached."""

    def line(self, vm: Vm, gsi: int) -> Line:
        """The line of interrupt *gsi*; KVM's irqfd has the same number for it."""

    def may_be_linux(self, kernel: memoryview) -> bool:
        """Whether *kernel*'s format is one of Linux's. Raises ImageError for a file of no known format."""

    def load_kernel(
        self, memory: GuestMemory, kernel: memoryview, cmdline: str, initrds: Sequence[bytes | memoryview]
    ) -> BootEntry:
        """Write a kernel, its initrds and tables into memory; where CPU 0 starts. Raises ImageError."""

    def load_firmware(self, memory: GuestMemory, data: memoryview, rom: Any) -> BootEntry:
        """Write firmware that is not a ROM, and its tables; where CPU 0 starts. Raises ImageError."""

    def enter(self, vcpu: Vcpu, entry: BootEntry) -> None:
        """Set CPU 0's registers as *entry* says."""

    def stopped(self, vcpu: Vcpu) -> None:
        """All vCPUs have stopped for a pause; *vcpu* is one of them. Raises KvmError."""

    def continues(self, vcpus: Sequence[Vcpu]) -> None:
        """All *vcpus* are to run again: see to it that the guest reports no lost time. Raises KvmError."""

    def power_button(self) -> None:
        """Ask the guest to shut down."""
