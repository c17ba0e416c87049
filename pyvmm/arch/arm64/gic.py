"""The interrupt controller that KVM emulates: GICv3 with an ITS, or GICv2.

Sources: Linux Documentation/virt/kvm/devices/arm-vgic-v3.rst, arm-vgic.rst (GICv2) and
arm-vgic-its.rst. The order is KVM's: addresses before the first vCPU runs, initialization after
the last vCPU was made.
"""

from __future__ import annotations

from errno import ENODEV, ENOTTY

from pyvmm.arch.arm64 import layout
from pyvmm.errors import ConfigError, StartError
from pyvmm.pykvm import KvmError
from pyvmm.pykvm import const_arm64 as c
from pyvmm.pykvm.const import KVM_DEV_TYPE_ARM_VGIC_ITS, KVM_DEV_TYPE_ARM_VGIC_V2, KVM_DEV_TYPE_ARM_VGIC_V3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board.board import Board
    from pyvmm.pykvm import Vm
    from pyvmm.pykvm.device import KvmDevice

VERSIONS = ("auto", "2", "3")


class Gic:
    """The interrupt controller of one VM. ``initialize`` it when all vCPUs are made.

    :param wanted: "3", "2", or "auto" for the newest this host offers
    :param cpus: how many vCPUs there will be

    Raises ConfigError for more vCPUs than a GICv2 serves, StartError where KVM does not offer that version.
    """

    def __init__(self, vm: Vm, wanted: str, cpus: int) -> None:
        self._device, self.version = _create(vm, wanted)
        self._its: KvmDevice | None = None
        #: Redistributor regions: (base, how many redistributors) each; empty for a GICv2.
        self.redistributors: list[tuple[int, int]] = []
        try:
            self._set_up(vm, cpus)
        except BaseException:
            self.close()
            raise

    @property
    def has_its(self) -> bool:
        """Whether there is an interrupt translation service."""
        return self._its is not None

    def _set_up(self, vm: Vm, cpus: int) -> None:
        if self.version == 2:
            if cpus > layout.GICV2_MAX_CPUS:
                raise ConfigError(
                    f"cpus: GICv2 serves at most {layout.GICV2_MAX_CPUS} CPUs, not {cpus}; ask for fewer, "
                    "or for gic 3 where this host's KVM has it"
                )
            self._address(c.KVM_VGIC_V2_ADDR_TYPE_DIST, layout.GIC_DIST)
            self._address(c.KVM_VGIC_V2_ADDR_TYPE_CPU, layout.GICV2_CPU)
        else:
            self._address(c.KVM_VGIC_V3_ADDR_TYPE_DIST, layout.GIC_DIST)
            for index, (base, room) in enumerate(layout.GIC_REDIST):
                count = min(cpus, room)
                if count:
                    # Count in the bits from 52 on, the address, the region's number in the lowest 12.
                    self._address(c.KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, count << 52 | base | index)
                    self.redistributors.append((base, count))
                cpus -= count
        self._device.set_device_attr(
            c.KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, layout.INTERRUPTS.to_bytes(4, "little")
        )
        if self.version == 3:
            self._add_its(vm)

    def _add_its(self, vm: Vm) -> None:
        try:
            self._its = vm.create_device(KVM_DEV_TYPE_ARM_VGIC_ITS)
        except KvmError as error:
            if error.errno != ENODEV:
                raise
            return
        self._its.set_device_attr(
            c.KVM_DEV_ARM_VGIC_GRP_ADDR, c.KVM_VGIC_ITS_ADDR_TYPE, layout.GIC_ITS.to_bytes(8, "little")
        )

    def initialize(self) -> None:
        """Initialize the controllers. From then on KVM accepts irqfds, and no further vCPUs."""
        for device in (self._device, self._its):
            if device is not None:
                device.set_device_attr(c.KVM_DEV_ARM_VGIC_GRP_CTRL, c.KVM_DEV_ARM_VGIC_CTRL_INIT)

    def close(self) -> None:
        """Close the descriptors; the controller itself exists as long as the VM. Idempotent."""
        if self._its is not None:
            self._its.close()
        self._device.close()

    def place(self, board: Board) -> None:
        """Take the controller's addresses on *board*."""
        from pyvmm.board.space import MMIO, RESERVED

        board.place(MMIO, layout.GIC_DIST, layout.GIC_DIST_SIZE, "GIC distributor", RESERVED)
        if self.version == 2:
            board.place(MMIO, layout.GICV2_CPU, layout.GICV2_CPU_SIZE, "GIC CPU interface", RESERVED)
        if self.has_its:
            board.place(MMIO, layout.GIC_ITS, layout.GIC_ITS_SIZE, "GIC ITS", RESERVED)
        for base, count in self.redistributors:
            board.place(MMIO, base, count * layout.GIC_REDIST_SIZE, "GIC redistributors", RESERVED)

    def _address(self, kind: int, value: int) -> None:
        self._device.set_device_attr(c.KVM_DEV_ARM_VGIC_GRP_ADDR, kind, value.to_bytes(8, "little"))


def _create(vm: Vm, wanted: str) -> tuple[KvmDevice, int]:
    kinds = {"3": KVM_DEV_TYPE_ARM_VGIC_V3, "2": KVM_DEV_TYPE_ARM_VGIC_V2}
    for version in kinds if wanted == "auto" else (wanted,):
        try:
            return vm.create_device(kinds[version]), int(version)
        except KvmError as error:
            if error.errno not in (ENODEV, ENOTTY):
                raise
    what = "no interrupt controller (GICv3, GICv2)" if wanted == "auto" else f"no GICv{wanted}"
    raise StartError(
        f"this host's KVM emulates {what}; {'use another host' if wanted == 'auto' else 'try gic auto'}"
    )
