"""Where things are in the x86-64 machine: guest-physical addresses, ports and interrupts."""

from __future__ import annotations

#: No RAM in this range below 4 GiB: devices are there.
GAP_START = 0xC000_0000
GAP_END = 0x1_0000_0000

#: Memory-mapped devices placed by the board, a page each.
MMIO_START = 0xD000_0000
MMIO_END = 0xD100_0000

#: Bytes of a virtio device's registers.
VIRTIO_SIZE = 0x1000

IOAPIC = 0xFEC0_0000
IOAPIC_SIZE = 0x1000
#: The local APICs' page and, after it, the addresses message-signalled interrupts are written to.
LAPIC = 0xFEE0_0000
LAPIC_SIZE = 0x10_0000
#: Below a firmware ROM of up to 16 MiB that ends at 4 GiB.
IDENTITY_MAP = 0xFEFF_C000
TSS = 0xFEFF_D000
TSS_SIZE = 0x3000
ROM_END = GAP_END

COM1 = 0x3F8
COM2 = 0x2F8
SERIAL_SIZE = 8
I8042_DATA = 0x60
I8042_COMMAND = 0x64
RTC = 0x70
RTC_SIZE = 2
SYSTEM_CONTROL_A = 0x92
CRTC = 0x3D4
DEBUG_EXIT = 0x501
PVPANIC = 0x505
ACPI_PM = 0x600
GED = 0x60C
#: PM1 control registers, which kernels write without reading ACPI tables: those of QEMU's boards, of Bochs
#: and old QEMU, and of VirtualBox.
PM1_CONTROLS = (0x604, 0xB004, 0x4004)
SHUTDOWN = 0x8900
FW_CFG = 0x510
PCI_CONFIG = 0xCF8

COM1_IRQ = 4
COM2_IRQ = 3
GED_IRQ = 5
RTC_IRQ = 8
#: Interrupts free for devices: I/O APIC pins without a legacy owner, then PCI's customary ones.
IRQ_START = 16
IRQ_END = 24
IOAPIC_PINS = 24

#: Ports the in-kernel interrupt controllers and timer answer: (base, size, owner).
KERNEL_PORTS = (
    (0x20, 2, "PIC"),
    (0xA0, 2, "PIC, second"),
    (0x4D0, 2, "PIC trigger modes"),
    (0x40, 4, "PIT"),
    (0x61, 1, "PIT speaker gate"),
)

#: Limit of 8-bit local APIC identifiers; 255 is the broadcast address.
MAX_CPUS = 254
