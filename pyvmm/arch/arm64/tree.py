"""The device tree of the arm64 machine.

Bindings: Devicetree Specification 0.4, chapter 3; Linux Documentation/devicetree/bindings: arm/cpus.yaml,
arm/psci.yaml, timer/arm,arch_timer.yaml, interrupt-controller/arm,gic-v3.yaml and arm,gic.yaml,
serial/pl011.yaml, serial/8250.yaml, rtc/arm,pl031.yaml, gpio/pl061-gpio.yaml, input/gpio-keys.yaml,
watchdog/arm,sp805.yaml, virtio/mmio.yaml, firmware/qemu,fw-cfg-mmio.yaml, arm/pmu.yaml; dt-schema:
chosen.yaml.
"""

from __future__ import annotations

import os

from pyvmm.arch.arm64 import layout
from pyvmm.boot.devicetree import Node, Tree, u64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

GIC_SPI = 0
GIC_PPI = 1
IRQ_EDGE_RISING = 1
IRQ_LEVEL_HIGH = 4
GPIO_ACTIVE_HIGH = 0
KEY_POWER = 116
_GICV2_ALL_CPUS = 0xFF << 8


class MachineTree:
    """A tree with everything an arm64 machine has; the loader adds ``/chosen``.

    :param gic: its version, and with version 3 its redistributors (base, count)
    :param cpus: each CPU's number (MPIDR_EL1)
    :param ram: ``(base, size)`` of each range of memory
    """

    def __init__(
        self,
        cpus: Sequence[int],
        ram: Sequence[tuple[int, int]],
        gic: int,
        redistributors: Sequence[tuple[int, int]] = (),
        *,
        its: bool = False,
        pmu: bool = False,
        model: str = "pyvmm",
    ) -> None:
        self.tree = Tree()
        self._gic_version = gic
        root = self.root = self.tree.root
        root.set("compatible", "linux,dummy-virt")
        root.set("model", model)
        root.set("#address-cells", 2)
        root.set("#size-cells", 2)
        root.add("chosen")
        root.add("aliases")
        self._gic = self._add_gic(redistributors, its)
        root.set("interrupt-parent", self.tree.refer(self._gic))
        for base, size in ram:
            node = root.add(f"memory@{base:x}")
            node.set("device_type", "memory")
            node.set("reg", u64(base), u64(size))
        self._add_cpus(cpus)
        psci = root.add("psci")
        psci.set("compatible", "arm,psci-1.0", "arm,psci-0.2")
        psci.set("method", "hvc")
        timer = root.add("timer")
        timer.set("compatible", "arm,armv8-timer")
        numbers = (
            layout.TIMER_SECURE_PPI,
            layout.TIMER_PHYSICAL_PPI,
            layout.TIMER_VIRTUAL_PPI,
            layout.TIMER_HYPERVISOR_PPI,
        )
        timer.set("interrupts", *(cell for number in numbers for cell in self._private(number)))
        timer.set("always-on")
        if pmu:
            node = root.add("pmu")
            node.set("compatible", "arm,armv8-pmuv3")
            node.set("interrupts", *self._private(layout.PMU_PPI))
        self._clocks: dict[int, int] = {}

    # Devices

    def add_pl011(self, base: int, spi: int, label: str, number: int) -> str:
        """A PL011 at *base*, a guest-physical address, on shared peripheral interrupt *spi* (INTID - 32).

        *number*: that of its alias ``serialN``, from 0. Returns the path of its node.
        """
        node = self._primecell("serial", "arm,pl011", base, label, layout.UART_CLOCK, ("uartclk", "apb_pclk"))
        node.set("interrupts", GIC_SPI, spi, IRQ_LEVEL_HIGH)
        return self._alias(node, f"serial{number}")

    def add_ns16550(self, base: int, spi: int, label: str, number: int, shift: int = 0) -> str:
        """A 16550 whose registers lie 2**shift bytes apart; the rest as for ``add_pl011``.

        *shift*: 0 to 2. *base*: guest-physical. *spi*: its shared peripheral interrupt. *number*: that of its
        alias. Returns the path of its node.
        """
        node = self.root.add(f"serial@{base:x}", label)
        node.set("compatible", "ns16550a")
        node.set("reg", u64(base), u64(layout.NS16550_SIZE << shift))
        node.set("interrupts", GIC_SPI, spi, IRQ_LEVEL_HIGH)
        node.set("clock-frequency", 1_843_200)
        if shift:
            node.set("reg-shift", shift)
        return self._alias(node, f"serial{number}")

    def add_rtc(self, base: int, spi: int) -> None:
        """The PL031 at *base*, a guest-physical address, on shared peripheral interrupt *spi*."""
        node = self._primecell("rtc", "arm,pl031", base, "rtc", layout.UART_CLOCK, ("apb_pclk",))
        node.set("interrupts", GIC_SPI, spi, IRQ_LEVEL_HIGH)

    def add_gpio(self, base: int, spi: int, power_button: int) -> None:
        """The PL061 at *base*, a guest-physical address, on shared peripheral interrupt *spi*.

        The power button is on its line *power_button*, 0 to 7.
        """
        node = self._primecell("gpio", "arm,pl061", base, "gpio", layout.UART_CLOCK, ("apb_pclk",))
        node.set("interrupts", GIC_SPI, spi, IRQ_LEVEL_HIGH)
        node.set("gpio-controller")
        node.set("#gpio-cells", 2)
        node.set("interrupt-controller")
        node.set("#interrupt-cells", 2)
        keys = self.root.add("gpio-keys")
        keys.set("compatible", "gpio-keys")
        key = keys.add("key-power")
        key.set("label", "power button")
        key.set("linux,code", KEY_POWER)
        key.set("gpios", self.tree.refer(node), power_button, GPIO_ACTIVE_HIGH)

    def add_watchdog(self, base: int, spi: int) -> None:
        """The SP805 at *base*, a guest-physical address, on shared peripheral interrupt *spi*."""
        clock, names = layout.WATCHDOG_CLOCK, ("wdog_clk", "apb_pclk")
        node = self._primecell("watchdog", "arm,sp805", base, "watchdog", clock, names)
        node.set("interrupts", GIC_SPI, spi, IRQ_LEVEL_HIGH)

    def add_fw_cfg(self, base: int, size: int) -> None:
        """QEMU's firmware configuration device: *size* bytes of registers at guest-physical *base*."""
        node = self.root.add(f"fw-cfg@{base:x}", "fw_cfg")
        node.set("compatible", "qemu,fw-cfg-mmio")
        node.set("reg", u64(base), u64(size))
        node.set("dma-coherent")

    def add_virtio(self, base: int, spi: int) -> None:
        """A virtio device whose registers are at *base*, on shared peripheral interrupt *spi*."""
        node = self.root.add(f"virtio@{base:x}", f"virtio_{base:x}")
        node.set("compatible", "virtio,mmio")
        node.set("reg", u64(base), u64(layout.VIRTIO_SIZE))
        node.set("interrupts", GIC_SPI, spi, IRQ_EDGE_RISING)
        node.set("dma-coherent")

    # Its parts

    def _add_gic(self, redistributors: Sequence[tuple[int, int]], its: bool) -> Node:
        gic = self.root.add(f"interrupt-controller@{layout.GIC_DIST:x}", "gic")
        gic.set("interrupt-controller")
        gic.set("#interrupt-cells", 3)
        if not its:
            gic.set("#address-cells", 0)
        distributor = u64(layout.GIC_DIST) + u64(layout.GIC_DIST_SIZE)
        if self._gic_version == 2:
            gic.set("compatible", "arm,cortex-a15-gic")
            gic.set("reg", distributor, u64(layout.GICV2_CPU), u64(layout.GICV2_CPU_SIZE))
            return gic
        gic.set("compatible", "arm,gic-v3")
        places = [u64(base) + u64(count * layout.GIC_REDIST_SIZE) for base, count in redistributors]
        gic.set("reg", distributor, *places)
        if len(places) > 1:
            gic.set("#redistributor-regions", len(places))
        if its:
            gic.set("#address-cells", 2)
            gic.set("#size-cells", 2)
            gic.set("ranges")
            node = gic.add(f"msi-controller@{layout.GIC_ITS:x}", "its")
            node.set("compatible", "arm,gic-v3-its")
            node.set("msi-controller")
            node.set("#msi-cells", 1)
            node.set("reg", u64(layout.GIC_ITS), u64(layout.GIC_ITS_SIZE))
        return gic

    def add_pvpanic(self, base: int, size: int) -> None:
        """The register by which a kernel tells of its panic, *size* bytes at guest-physical *base*."""
        node = self.root.add(f"pvpanic-mmio@{base:x}")
        node.set("compatible", "qemu,pvpanic-mmio")
        node.set("reg", u64(base), u64(size))

    def _add_cpus(self, cpus: Sequence[int]) -> None:
        parent = self.root.add("cpus")
        cells = 2 if max(cpus) >> 32 else 1
        parent.set("#address-cells", cells)
        parent.set("#size-cells", 0)
        for number, affinity in enumerate(cpus):
            name = f"{affinity >> 32:x},{affinity & 0xFFFF_FFFF:x}" if cells == 2 else f"{affinity:x}"
            node = parent.add(f"cpu@{name}", f"cpu{number}")
            node.set("device_type", "cpu")
            node.set("compatible", "arm,armv8")
            node.set("reg", affinity.to_bytes(4 * cells, "big"))
            node.set("enable-method", "psci")

    def _primecell(
        self, kind: str, part: str, base: int, label: str, frequency: int, clocks: tuple[str, ...]
    ) -> Node:
        handles = [self._clock(frequency)] + [self._clock(layout.UART_CLOCK)] * (len(clocks) - 1)
        node = self.root.add(f"{kind}@{base:x}", label)
        node.set("compatible", part, "arm,primecell")
        node.set("reg", u64(base), u64(0x1000))
        node.set("clocks", *handles)
        node.set("clock-names", *clocks)
        return node

    def _clock(self, frequency: int) -> int:
        if frequency not in self._clocks:
            node = self.root.add(f"clock-{frequency}")
            node.set("compatible", "fixed-clock")
            node.set("#clock-cells", 0)
            node.set("clock-frequency", frequency)
            self._clocks[frequency] = self.tree.refer(node)
        return self._clocks[frequency]

    def _alias(self, node: Node, name: str) -> str:
        self.root.children["aliases"].set(name, f"/{node.name}")
        return f"/{node.name}"

    def _private(self, number: int) -> tuple[int, int, int]:
        """The three cells of a private interrupt; for a GICv2 they have a CPU mask."""
        return GIC_PPI, number, IRQ_LEVEL_HIGH | (_GICV2_ALL_CPUS if self._gic_version == 2 else 0)


def describe_boot(
    tree: Tree, cmdline: str, initrd: tuple[int, int] | None = None, stdout: str | None = None
) -> None:
    """Fill ``/chosen``: the command line, the initrd ``(base, end)``, the console, and seeds."""
    chosen = tree.root.child("chosen")
    chosen.set("bootargs", os.fsencode(cmdline) + b"\0")
    if stdout is not None:
        chosen.set("stdout-path", stdout)
    for name in ("linux,initrd-start", "linux,initrd-end"):
        chosen.properties.pop(name, None)
    if initrd is not None:
        chosen.set("linux,initrd-start", u64(initrd[0]))
        chosen.set("linux,initrd-end", u64(initrd[1]))
    chosen.set("kaslr-seed", os.urandom(8))
    chosen.set("rng-seed", os.urandom(64))


def describe_memory(tree: Tree, ram: Sequence[tuple[int, int]]) -> None:
    """Replace the memory nodes of a user's tree by the machine's memory. Raises DeviceTreeError."""
    root = tree.root
    cells = [
        (root.cells(f"#{name}-cells") or [default])[0] for name, default in (("address", 2), ("size", 1))
    ]
    for name in [name for name in root.children if name.partition("@")[0] == "memory"]:
        del root.children[name]
    for base, size in ram:
        node = root.add(f"memory@{base:x}")
        node.set("device_type", "memory")
        try:
            node.set("reg", base.to_bytes(4 * cells[0], "big"), size.to_bytes(4 * cells[1], "big"))
        except OverflowError:
            from pyvmm.boot.devicetree import DeviceTreeError

            raise DeviceTreeError(
                f"the device tree's #address-cells {cells[0]} and #size-cells {cells[1]} cannot hold memory "
                f"of {size:#x} bytes at {base:#x}; give the guest less, or a tree with two cells"
            ) from None
