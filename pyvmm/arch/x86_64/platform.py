"""The x86-64 platform: interrupt controllers, legacy devices, tables, and the first CPU's entry."""

from __future__ import annotations

from errno import EINVAL, ENOTTY

from pyvmm.arch.lines import IrqLine
from pyvmm.arch.x86_64 import chips, layout
from pyvmm.arch.x86_64.cpu import set_boot_msrs, set_entry, set_local_interrupts
from pyvmm.arch.x86_64.cpuid import Cpuid, X86CpuModel
from pyvmm.board.board import Board
from pyvmm.board.device import Device, Line
from pyvmm.board.space import IRQ, MMIO, PORT, RESERVED
from pyvmm.devices import acpi_pm, crtc, debugexit, fwcfg, ged, power_ports, pvpanic, reset_ports
from pyvmm.devices.acpi_pm import AcpiPm
from pyvmm.devices.crtc import Crtc
from pyvmm.devices.debugexit import DebugExit
from pyvmm.devices.fwcfg import FwCfgPorts
from pyvmm.devices.ged import Ged
from pyvmm.devices.i8042 import I8042, CommandPort, DataPort
from pyvmm.devices.power_ports import Pm1Control, ShutdownPort
from pyvmm.devices.pvpanic import PvPanic
from pyvmm.devices.reset_ports import ResetControl, SystemControlA
from pyvmm.devices.rtc import Mc146818
from pyvmm.devices.serial import Serial16550A
from pyvmm.errors import ConfigError, GuestError
from pyvmm.pykvm import KvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.arch.events import Events
    from pyvmm.backends.base import CharBackend
    from pyvmm.board.devices import DeviceTable
    from pyvmm.board.timers import Timers
    from pyvmm.boot.entry import BootEntry
    from pyvmm.boot.x86.firmware import X86RomImage
    from pyvmm.boot.x86.params import BootParams
    from pyvmm.config import Config
    from pyvmm.devices.fwcfg import ItemSource
    from pyvmm.devices.uart import Uart
    from pyvmm.loop import Loop
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.pykvm import Kvm, Vcpu, Vm


class NoPci(Device):
    """The ports of PCI configuration mechanism #1: nothing is there.

    With ``refused``, for firmware, to write a configuration address ends the VM. Other accesses do not, such
    as the end of one that begins before these ports.
    """

    name = "PCI"
    refused = False

    def write(self, offset: int, size: int, value: int) -> None:
        """Raises GuestError for a configuration address, a double word at the first port."""
        if self.refused and (offset, size) == (0, 4):
            raise GuestError(
                "the firmware uses PCI, which this machine has not; give firmware that needs no PCI, or boot "
                "the kernel directly with --kernel"
            )


class X86Platform:
    """The part of a machine that is x86-64's. The methods are called in their order here.

    Raises ConfigError for a CPU model that is none, and for keys of other architectures.
    """

    #: Bytes of a virtio device's registers.
    virtio_size = layout.VIRTIO_SIZE
    console_name = "ttyS0"
    channel_name = "ttyS1"
    #: There is no PCI: the kernel need not probe its ports.
    kernel_parameters = "pci=off"
    #: Registers whose writes KVM may queue from the start: none; ports are registered at their first write.
    coalesced: Sequence[tuple[int, int]] = ()
    port_base: int | None = None
    polls = chips.POLLS

    def __init__(self, config: Config, chips: None) -> None:
        for key in config.ARM64_KEYS:
            if getattr(config, key):
                raise ConfigError(f"{key} is for arm64 machines, and this is an x86-64 host; leave it out")
        self._config = config
        self._model = X86CpuModel(config.cpu)
        #: Virtio devices to announce: (address of the registers' page, interrupt).
        self.virtio: Sequence[tuple[int, int]] = ()
        self._serial_ports: list[tuple[str, int, int]] = []
        self._ged: Ged | None = None
        self._cpuid: Cpuid | None = None
        self._pci = NoPci()
        #: The kernel's command line as it was given to the guest.
        self._cmdline = config.cmdline or ""

    def create_board(self) -> Board:
        """A board with what the platform itself takes."""
        arenas = {
            MMIO: [(layout.MMIO_START, layout.MMIO_END)],
            IRQ: [(layout.IRQ_START, layout.IRQ_END)],
        }
        board = Board(arenas)
        board.place(MMIO, layout.IOAPIC, layout.IOAPIC_SIZE, "I/O APIC", RESERVED)
        board.place(MMIO, layout.LAPIC, layout.LAPIC_SIZE, "local APICs", RESERVED)
        board.place(MMIO, layout.IDENTITY_MAP, 0x1000, "KVM identity map", RESERVED)
        board.place(MMIO, layout.TSS, layout.TSS_SIZE, "KVM TSS pages", RESERVED)
        for base, size, owner in layout.KERNEL_PORTS:
            board.place(PORT, base, size, owner, RESERVED)
        board.place(IRQ, 0, 1, "PIT", RESERVED)
        board.place(IRQ, 2, 1, "PIC cascade", RESERVED)
        return board

    def prepare(self, kvm: Kvm, vm: Vm) -> None:
        """Apply the CPU model to what KVM supports. Raises StartError for a missing required feature."""
        deadline = bool(kvm.check_extension("TSC_DEADLINE_TIMER"))
        self._cpuid = Cpuid(kvm.get_supported_cpuid(), self._model, self._config.cpus, deadline)

    def prepare_vcpu(self, vcpu: Vcpu, index: int) -> None:
        """Set CPUID, MSRs and local interrupts of vCPU *index*, from 0; after ``prepare``."""
        assert self._cpuid is not None, "prepare comes first"
        vcpu.set_cpuid2(self._cpuid.entries(index))
        set_boot_msrs(vcpu)
        set_local_interrupts(vcpu)

    def finish_vcpus(self) -> None:
        """Nothing is to be done when all vCPUs are made."""

    def line(self, vm: Vm, gsi: int) -> Line:
        """The line of interrupt *gsi*."""
        return IrqLine(vm, gsi)

    def may_be_linux(self, kernel: memoryview) -> bool:
        """Whether it is no multiboot kernel. Raises ImageError for a file of no known format."""
        from pyvmm.boot.x86.detect import MULTIBOOT, MULTIBOOT2, detect

        how = self._config.boot
        return (detect(kernel) if how == "auto" else how) not in (MULTIBOOT, MULTIBOOT2)

    def load_kernel(
        self, memory: GuestMemory, kernel: memoryview, cmdline: str, initrds: Sequence[bytes | memoryview]
    ) -> BootEntry:
        """Write a kernel, its initrds and tables into *memory*. Raises ImageError."""
        from pyvmm.boot.x86.detect import load, unpacked

        elf = None
        announce = self._config.virtio_cmdline
        if self.virtio and announce != "off":
            from pyvmm.boot.virtio_cmdline import device_parameters, with_devices

            if announce == "on":
                cmdline = with_devices(cmdline, self.virtio, self.virtio_size)
            else:
                elf = unpacked(kernel)
                image = kernel if elf is None else elf
                cmdline = device_parameters(image, cmdline, self.virtio, self.virtio_size)
        self._cmdline = cmdline
        return load(memory, kernel, self.boot_params(memory, cmdline, initrds), self._config.boot, elf)

    def load_firmware(self, memory: GuestMemory, data: memoryview, rom: X86RomImage | None) -> BootEntry:
        """Write ELF firmware into *memory*; a ROM is mapped already. Raises ImageError."""
        self._pci.refused = rom is None or not rom.shadowed
        if rom is not None:
            if rom.shadowed:
                memory.write(rom.low_base, rom.low)
            return rom.entry
        from pyvmm.boot.x86.firmware import load_firmware_elf

        return load_firmware_elf(memory, data)

    def enter(self, vcpu: Vcpu, entry: BootEntry) -> None:
        """Set CPU 0's registers as *entry* says."""
        set_entry(vcpu, entry)

    def add_devices(
        self,
        devices: DeviceTable,
        loop: Loop,
        timers: Timers,
        events: Events,
        memory: GuestMemory,
        console: CharBackend,
        channel: CharBackend | None,
    ) -> Uart:
        """Add the legacy devices; returns COM1. *channel* is COM2's backend; None: no COM2."""

        def serial(name: str, base: int, irq: int, backend: CharBackend) -> Serial16550A:
            line, _ = devices.line(name, irq)
            port = Serial16550A(loop, line, timers)
            port.drain = events.drain
            devices.add(name, port, layout.SERIAL_SIZE, port=base)
            port.connect(backend)
            self._serial_ports.append((name, base, irq))
            return port

        com1 = serial("COM1", layout.COM1, layout.COM1_IRQ, console)
        if channel is not None:
            serial("COM2", layout.COM2, layout.COM2_IRQ, channel)
        keyboard = I8042(lambda: events.reset("keyboard controller"))
        devices.add("i8042 data", DataPort(keyboard), 1, port=layout.I8042_DATA)
        devices.add("i8042 command", CommandPort(keyboard), 1, port=layout.I8042_COMMAND)
        line, _ = devices.line("RTC", layout.RTC_IRQ)
        below = sum(r.size for r in memory.regions if r.gpa < layout.GAP_START)
        above = sum(r.size for r in memory.regions if r.gpa >= layout.GAP_END)
        devices.add("RTC", Mc146818(timers, line, below, above), layout.RTC_SIZE, port=layout.RTC)
        devices.add("CRT controller", Crtc(), crtc.SIZE, port=layout.CRTC)
        power = AcpiPm(events.poweroff, lambda: events.reset("ACPI reset register"))
        devices.add("ACPI power registers", power, acpi_pm.SIZE, port=layout.ACPI_PM)
        line, _ = devices.line("generic event device", layout.GED_IRQ)
        self._ged = Ged(line)
        devices.add("generic event device", self._ged, ged.SIZE, port=layout.GED)
        self._add_fixed_ports(devices, events)
        devices.add("pvpanic", PvPanic(events.panicked), pvpanic.SIZE, port=layout.PVPANIC)
        if self._config.debug_exit is not None:
            debug_exit = DebugExit(events.debug_exit)
            devices.add("debug exit", debug_exit, debugexit.SIZE, port=self._config.debug_exit)
        source = FwCfgPorts(lambda: self._items(memory))
        devices.add("fw_cfg", source, fwcfg.PORTS_SIZE, port=layout.FW_CFG)
        return com1

    def _items(self, memory: GuestMemory) -> ItemSource:
        """What fw_cfg tells the guest."""
        from pyvmm.arch.fwcfg import GuestItems, e820_file
        from pyvmm.boot.x86.e820 import E820_RAM, E820_RESERVED

        entries = [(base, end - base, E820_RAM) for base, end in memory.ram_spans()]
        entries.append(
            (layout.IDENTITY_MAP, layout.TSS + layout.TSS_SIZE - layout.IDENTITY_MAP, E820_RESERVED)
        )
        return GuestItems(self._config, memory, self._cmdline, {"etc/e820": e820_file(entries)})

    def _add_fixed_ports(self, devices: DeviceTable, events: Events) -> None:
        """Where kernels that read no ACPI tables switch off and reset other boards."""
        for port in layout.PM1_CONTROLS:
            devices.add(
                f"PM1 control {port:#x}", Pm1Control(events.poweroff), power_ports.PM1_SIZE, port=port
            )
        off = ShutdownPort(events.poweroff)
        devices.add("shutdown port", off, power_ports.SHUTDOWN_SIZE, port=layout.SHUTDOWN)
        port_a = SystemControlA(lambda: events.reset("system control port A"))
        devices.add("system control port A", port_a, reset_ports.PORT_A_SIZE, port=layout.SYSTEM_CONTROL_A)
        control = ResetControl(lambda: events.reset("reset control register"), self._pci)
        devices.add("reset control", control, reset_ports.CONFIG_SIZE, port=layout.PCI_CONFIG)

    def stopped(self, vcpu: Vcpu) -> None:
        """Nothing: the guest's clocks go on."""

    def continues(self, vcpus: Sequence[Vcpu]) -> None:
        """Tell a kvm-clock guest's soft lockup watchdog that the host stopped it (KVM_KVMCLOCK_CTRL)."""
        for vcpu in vcpus:
            try:
                vcpu.kvmclock_ctrl()
            except KvmError as error:
                if error.errno not in (EINVAL, ENOTTY):  # no kvm-clock in the guest, or none in KVM
                    raise

    def power_button(self) -> None:
        """Press the power button: the guest's ACPI driver shuts down, if it has one."""
        assert self._ged is not None, "add_devices comes first"
        self._ged.power_button()

    # Tables

    def boot_params(
        self, memory: GuestMemory, cmdline: str, initrds: Sequence[bytes | memoryview]
    ) -> BootParams:
        """Write ACPI tables, MP table and reset code into *memory*; return what a loader needs besides.

        Raises DoesNotFitError for more CPUs than the MP table has room for.
        """
        from pyvmm.boot.acpi import AcpiDevice, AcpiTables, PowerPorts
        from pyvmm.boot.x86 import lowmem
        from pyvmm.boot.x86.biosdata import write_bios_data
        from pyvmm.boot.x86.e820 import build_e820
        from pyvmm.boot.x86.mptable import write_mp_table
        from pyvmm.boot.x86.params import BootParams
        from pyvmm.boot.x86.reset import write_reset_code

        power = PowerPorts(
            sleep_control=layout.ACPI_PM + acpi_pm.SLEEP_CONTROL,
            sleep_status=layout.ACPI_PM + acpi_pm.SLEEP_STATUS,
            s5_type=acpi_pm.S5_TYPE,
            reset=layout.ACPI_PM + acpi_pm.RESET,
            reset_value=acpi_pm.RESET_VALUE,
            events=layout.GED + ged.EVENTS,
            power_button=ged.POWER_BUTTON,
            events_gsi=layout.GED_IRQ,
        )
        cpus = self._config.cpus
        announced = [
            AcpiDevice(
                name, "PNP0501", uid, ports=[(base, layout.SERIAL_SIZE)], interrupts=[(irq, True, False)]
            )
            for uid, (name, base, irq) in enumerate(self._serial_ports)
        ]
        announced += [
            AcpiDevice(
                f"V{uid:03X}",
                "LNRO0005",
                uid,
                mmio=[(base, layout.VIRTIO_SIZE)],
                interrupts=[(gsi, True, True)],
            )
            for uid, (base, gsi) in enumerate(self.virtio)
        ]
        announced.append(AcpiDevice("PEVT", "QEMU0001", ports=[(layout.PVPANIC, pvpanic.SIZE)]))
        tables = AcpiTables(cpus, announced, power, lowmem.ACPI, lowmem.ACPI_END)
        tables.place(memory)
        write_bios_data(memory, [base for _, base, _ in self._serial_ports])
        write_mp_table(memory, cpus)
        write_reset_code(memory, power.reset, power.reset_value)
        return BootParams(cmdline, initrds, build_e820(memory), tables.rsdp)
