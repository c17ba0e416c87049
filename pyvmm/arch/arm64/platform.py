"""The arm64 platform: interrupt controller, devices, device tree, and the first CPU's entry."""

from __future__ import annotations

from pyvmm.arch.arm64 import cpu, layout
from pyvmm.arch.lines import IrqLine
from pyvmm.board.board import Board
from pyvmm.board.device import Line
from pyvmm.board.space import IRQ, MMIO
from pyvmm.devices import debugexit, fwcfg, pl011, primecell
from pyvmm.devices.fwcfg import FwCfgRegisters
from pyvmm.devices.pl011 import Pl011
from pyvmm.devices.pl031 import Pl031
from pyvmm.devices.pl061 import Pl061
from pyvmm.devices.pvpanic import PvPanic
from pyvmm.devices.sp805 import Sp805
from pyvmm.errors import ConfigError
from pyvmm.pykvm.const_arm64 import (
    KVM_ARM_IRQ_TYPE_SHIFT,
    KVM_ARM_IRQ_TYPE_SPI,
    KVM_REG_ARM_TIMER_CNT,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.arch.arm64.firmware import Arm64RomImage
    from pyvmm.arch.arm64.gic import Gic
    from pyvmm.arch.events import Events
    from pyvmm.backends.base import CharBackend
    from pyvmm.board.devices import DeviceTable
    from pyvmm.board.timers import Timers
    from pyvmm.boot.devicetree import Tree
    from pyvmm.boot.entry import BootEntry
    from pyvmm.config import Config
    from pyvmm.devices.fwcfg import ItemSource
    from pyvmm.devices.spaced import Spaced
    from pyvmm.devices.uart import Uart
    from pyvmm.loop import Loop
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.pykvm import Kvm, Vcpu, Vm

PL011 = "pl011"
NS16550 = "16550"


def spi(vm: Vm, gsi: int) -> IrqLine:
    """A shared peripheral interrupt of the in-kernel GIC. Linux Documentation/virt/kvm/api.rst, 4.25."""
    return IrqLine(vm, KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | gsi + layout.SPI_FIRST_INTID)


class UartPlace:
    """The parsed ``uart`` value: kind, address, interrupt, register spacing. Raises ConfigError."""

    __slots__ = ("base", "irq", "kind", "shift")

    def __init__(self, text: str) -> None:
        self.kind, *words = text.split(",")
        self.base, self.irq, self.shift = layout.UART0, layout.UART0_SPI, 0
        if self.kind not in (PL011, NS16550):
            raise ConfigError(f"uart: {self.kind!r} is not offered; choose {PL011} or {NS16550}")
        for word in words:
            key, _, value = word.partition("=")
            try:
                number = int(value, 0)
            except ValueError:
                raise ConfigError(f"uart: {word!r} is not base=ADDRESS, irq=NUMBER or shift=NUMBER") from None
            if key == "base" and 0 <= number < 1 << 48 and number % 4 == 0:
                self.base = number
            elif key == "irq" and 0 <= number < layout.SPI_END:
                self.irq = number
            elif key == "shift" and 0 <= number <= 2 and self.kind == NS16550:
                self.shift = number
            else:
                raise ConfigError(
                    f"uart: {word!r} is not possible; base is an address, irq 0 to {layout.SPI_END - 1} (the "
                    "interrupt's number less 32), shift 0 to 2 for a 16550"
                )


class Arm64Platform:
    """The part of a machine that is arm64's. The methods are called in their order here.

    Raises ConfigError for an invalid CPU model or UART, and for keys of other architectures.
    """

    virtio_size = layout.VIRTIO_SIZE
    port_base: int | None = layout.PORTS
    #: None: a kernel probes only for what the device tree has.
    kernel_parameters = ""

    def __init__(self, config: Config, gic: Gic) -> None:
        if config.boot not in ("auto", "elf"):
            raise ConfigError(f"boot: {config.boot!r} is for x86; on arm64 leave it out")
        self._config = config
        self._gic = gic
        self._model = cpu.Arm64CpuModel(config.cpu)
        self._uart = UartPlace(config.uart or PL011)
        self._features: frozenset[str] = frozenset()
        self._vm: Vm | None = None
        self._vcpus: list[Vcpu] = []
        self._gpio: Pl061 | None = None
        self._has_channel = False
        #: The kernel's command line as it was given to the guest.
        self._cmdline = config.cmdline or ""
        self.virtio: Sequence[tuple[int, int]] = ()
        pl = self._uart.kind == PL011
        self.console_name, self.channel_name = ("ttyAMA0", "ttyAMA1") if pl else ("ttyS0", "ttyS1")
        self.coalesced: Sequence[tuple[int, int]] = ()
        self.polls: frozenset[int] = frozenset()

    def create_board(self) -> Board:
        """A board with what the platform itself takes."""
        board = Board(
            {
                MMIO: [(layout.MMIO_START, layout.MMIO_END)],
                IRQ: [(layout.SPI_START, layout.SPI_END)],
            }
        )
        self._gic.place(board)
        return board

    def prepare(self, kvm: Kvm, vm: Vm) -> None:
        """Choose the vCPUs' features. Raises StartError for a required one that KVM does not offer."""
        self._vm = vm
        self._features = self._model.features(kvm)
        if vm.check_extension("ARM_NISV_TO_USER"):
            vm.enable_cap("ARM_NISV_TO_USER")

    def add_devices(
        self,
        devices: DeviceTable,
        loop: Loop,
        timers: Timers,
        events: Events,
        memory: GuestMemory,
        console: CharBackend,
        channel: CharBackend | None,
    ) -> Uart | Spaced:
        """Add the devices; returns the first UART. *channel* is the second's, if any."""

        def uart(name: str, base: int, irq: int, backend: CharBackend) -> Uart | Spaced:
            line, _ = devices.line(name, irq)
            port, size = self._make_uart(loop, line, timers, events)
            devices.add(name, port, size, address=base)
            port.connect(backend)
            if self._uart.kind == PL011:
                self.coalesced = (*self.coalesced, (base + pl011.DR, 4))
                self.polls |= {base + pl011.FR}
            return port

        first = uart("UART 0", self._uart.base, self._uart.irq, console)
        if channel is not None:
            uart("UART 1", layout.UART1, layout.UART1_SPI, channel)
            self._has_channel = True
        line, _ = devices.line("RTC", layout.RTC_SPI)
        devices.add("RTC", Pl031(timers, line), primecell.SIZE, address=layout.RTC)
        line, _ = devices.line("GPIO", layout.GPIO_SPI)
        self._gpio = Pl061(timers, line)
        devices.add("GPIO", self._gpio, primecell.SIZE, address=layout.GPIO)
        line, _ = devices.line("watchdog", layout.WATCHDOG_SPI)
        dog = Sp805(timers, events.watchdog, line, layout.WATCHDOG_CLOCK)
        devices.add("watchdog", dog, primecell.SIZE, address=layout.WATCHDOG)
        items = FwCfgRegisters(lambda: self._items(memory))
        devices.add("fw_cfg", items, fwcfg.REGISTERS_SIZE, address=layout.FW_CFG)
        devices.add("pvpanic", PvPanic(events.panicked), layout.PVPANIC_SIZE, address=layout.PVPANIC)
        if self._config.debug_exit is not None:
            debug_exit = debugexit.DebugExit(events.debug_exit)
            devices.add("debug exit", debug_exit, debugexit.SIZE, port=self._config.debug_exit)
        return first

    def _items(self, memory: GuestMemory) -> ItemSource:
        """What fw_cfg tells the guest."""
        from pyvmm.arch.fwcfg import GuestItems

        return GuestItems(self._config, memory, self._cmdline)

    def stopped(self, vcpu: Vcpu) -> None:
        """Note the virtual counter: its offset is the same for all vCPUs (Linux arch_timer.c)."""
        self._counter = vcpu.get_one_reg(KVM_REG_ARM_TIMER_CNT)

    def continues(self, vcpus: Sequence[Vcpu]) -> None:
        """Let the virtual counter go on where it was: KVM cannot tell an arm64 guest that it was stopped."""
        vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_CNT, self._counter)

    def _make_uart(self, loop: Loop, line: Line, timers: Timers, events: Events) -> tuple[Uart | Spaced, int]:
        if self._uart.kind == PL011:
            pl = Pl011(loop, line)
            pl.drain = events.drain
            return pl, primecell.SIZE
        from pyvmm.devices.serial import Serial16550A
        from pyvmm.devices.spaced import Spaced

        port = Serial16550A(loop, line, timers)
        port.drain = events.drain
        if not self._uart.shift:
            return port, layout.NS16550_SIZE
        return Spaced(port, self._uart.shift), layout.NS16550_SIZE << self._uart.shift

    def prepare_vcpu(self, vcpu: Vcpu, index: int) -> None:
        """Initialize vCPU *index*, from 0; all but 0 are powered off."""
        assert self._vm is not None, "prepare comes first"
        cpu.initialize(self._vm, vcpu, index, self._features)
        self._vcpus.append(vcpu)

    def finish_vcpus(self) -> None:
        """Initialize the interrupt controller, then the PMUs."""
        self._gic.initialize()
        if "pmu" in self._features:
            for vcpu in self._vcpus:
                cpu.start_pmu(vcpu)

    def line(self, vm: Vm, gsi: int) -> Line:
        """The line of interrupt *gsi*."""
        return spi(vm, gsi)

    def may_be_linux(self, kernel: memoryview) -> bool:
        """Whether it may: every kernel is started by Linux's boot protocol."""
        return True

    def load_kernel(
        self, memory: GuestMemory, kernel: memoryview, cmdline: str, initrds: Sequence[bytes | memoryview]
    ) -> BootEntry:
        """Write kernel, device tree and initrd to the start of RAM, in this order. Raises ImageError."""
        from pyvmm.arch.arm64 import loader

        if self._config.virtio_cmdline == "on":
            from pyvmm.boot.virtio_cmdline import with_devices

            devices = [(base, spi + layout.SPI_FIRST_INTID) for base, spi in self.virtio]
            cmdline = with_devices(cmdline, devices, self.virtio_size)
        self._cmdline = cmdline
        return loader.load_kernel(memory, kernel, initrds, cmdline, self._tree(memory), self._stdout)

    def load_firmware(self, memory: GuestMemory, data: memoryview, rom: Arm64RomImage | None) -> BootEntry:
        """Write firmware that is not a ROM to its address, and the device tree to the start of RAM.

        Raises ImageError.
        """
        from pyvmm.arch.arm64 import loader
        from pyvmm.boot.cmdline import one_line

        base = self._config.firmware_base
        cmdline = one_line(self._config.cmdline or "")
        return loader.load_firmware(memory, data, rom, base, cmdline, self._tree(memory), self._stdout)

    def enter(self, vcpu: Vcpu, entry: BootEntry) -> None:
        """Set CPU 0's registers as *entry* says."""
        cpu.set_entry(vcpu, entry)

    def power_button(self) -> None:
        """Press the power button: the guest's gpio-keys driver shuts down, if it has one."""
        assert self._gpio is not None, "add_devices comes first"
        self._gpio.press(layout.POWER_BUTTON)

    # The device tree

    @property
    def _stdout(self) -> str | None:
        return None if self._config.dtb is not None else "serial0:115200n8"

    def _tree(self, memory: GuestMemory) -> Tree:
        """The device tree, the user's or the machine's, with overlays applied; without ``/chosen``."""
        from pyvmm.arch.arm64.tree import describe_memory

        ram = [(base, end - base) for base, end in memory.ram_spans()]
        if self._config.dtb is not None:
            from pyvmm.arch.arm64.loader import read_tree

            tree = read_tree(self._config.dtb)
            describe_memory(tree, ram)
        else:
            tree = self._own_tree(ram)
        for path in self._config.dtb_overlay:
            from pyvmm.arch.arm64.loader import put_overlay

            tree.write_symbols()
            put_overlay(tree, path)
        return tree

    def _own_tree(self, ram: Sequence[tuple[int, int]]) -> Tree:
        from pyvmm.arch.arm64.tree import MachineTree

        machine = MachineTree(
            [cpu.affinity(vcpu) for vcpu in self._vcpus],
            ram,
            self._gic.version,
            self._gic.redistributors,
            its=self._gic.has_its,
            pmu="pmu" in self._features,
        )

        def uart(base: int, irq: int, number: int) -> None:
            if self._uart.kind == PL011:
                machine.add_pl011(base, irq, f"uart{number}", number)
            else:
                machine.add_ns16550(base, irq, f"uart{number}", number, self._uart.shift)

        uart(self._uart.base, self._uart.irq, 0)
        if self._has_channel:
            uart(layout.UART1, layout.UART1_SPI, 1)
        machine.add_rtc(layout.RTC, layout.RTC_SPI)
        machine.add_gpio(layout.GPIO, layout.GPIO_SPI, layout.POWER_BUTTON)
        machine.add_watchdog(layout.WATCHDOG, layout.WATCHDOG_SPI)
        machine.add_fw_cfg(layout.FW_CFG, fwcfg.REGISTERS_SIZE)
        machine.add_pvpanic(layout.PVPANIC, layout.PVPANIC_SIZE)
        for base, gsi in self.virtio:
            machine.add_virtio(base, gsi)
        return machine.tree
