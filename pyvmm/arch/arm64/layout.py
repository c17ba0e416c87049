"""Where things are in the arm64 machine: guest-physical addresses and interrupts.

The addresses are those of QEMU's ``virt`` board, so that what was built for it finds its devices.
"""

from __future__ import annotations

FIRMWARE = 0
FIRMWARE_MAX = 0x0800_0000

GIC_DIST = 0x0800_0000
GIC_DIST_SIZE = 0x1_0000
GICV2_CPU = 0x0801_0000
GICV2_CPU_SIZE = 0x2_0000
GIC_ITS = 0x0808_0000
GIC_ITS_SIZE = 0x2_0000
#: Redistributor regions: (base, how many redistributors fit), used in this order.
GIC_REDIST = ((0x080A_0000, 123), (0x1000_0000, 256))
GIC_REDIST_SIZE = 0x2_0000

UART0 = 0x0900_0000
RTC = 0x0901_0000
FW_CFG = 0x0902_0000
GPIO = 0x0903_0000
UART1 = 0x0904_0000
WATCHDOG = 0x0906_0000
PVPANIC = 0x0907_0000
#: Bytes of pvpanic's registers: the first one, and what its driver maps besides.
PVPANIC_SIZE = 2
#: Memory-mapped devices placed by the board.
MMIO_START = 0x0A00_0000
MMIO_END = 0x0C00_0000
#: I/O port P is the byte at this + P.
PORTS = 0x3EFF_0000
PORTS_SIZE = 0x1_0000
RAM = 0x4000_0000

#: Bytes of a virtio device's registers.
VIRTIO_SIZE = 0x1000
#: Bytes of a 16550's registers.
NS16550_SIZE = 8

#: Shared peripheral interrupts, as GSIs: INTID = this + 32.
UART0_SPI = 1
RTC_SPI = 2
GPIO_SPI = 7
UART1_SPI = 8
WATCHDOG_SPI = 9
SPI_START = 16
SPI_END = 256
#: Number of the GIC's interrupts: 32 private ones and the shared ones.
INTERRUPTS = 32 + SPI_END
SPI_FIRST_INTID = 32

#: Private peripheral interrupts (INTID - 16), as recommended by Arm's Base System Architecture.
TIMER_SECURE_PPI = 13
TIMER_PHYSICAL_PPI = 14
TIMER_VIRTUAL_PPI = 11
TIMER_HYPERVISOR_PPI = 10
PMU_PPI = 7
PPI_FIRST_INTID = 16

#: The GPIO line of the power button.
POWER_BUTTON = 3
#: The watchdog's and the UARTs' clocks in Hz.
WATCHDOG_CLOCK = 1_000_000
UART_CLOCK = 24_000_000

GICV2_MAX_CPUS = 8
