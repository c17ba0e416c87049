"""Entries of the interrupt routing table.

Source: Linux Documentation/virt/kvm/api.rst, 4.52 (KVM_SET_GSI_ROUTING).
"""

from __future__ import annotations

from ctypes import Array, c_char, create_string_buffer

from pyvmm.pykvm.abi_irq import kvm_irq_routing, kvm_irq_routing_entry
from pyvmm.pykvm.const import KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_MSI_VALID_DEVID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def irqchip(gsi: int, chip: int, pin: int) -> kvm_irq_routing_entry:
    """Interrupt *gsi* reaches input *pin* of the in-kernel controller *chip* (KVM_IRQCHIP_IOAPIC, ...)."""
    entry = kvm_irq_routing_entry(gsi=gsi, type=KVM_IRQ_ROUTING_IRQCHIP)
    entry.u.irqchip.irqchip = chip
    entry.u.irqchip.pin = pin
    return entry


def msi(gsi: int, address: int, data: int, devid: int | None = None) -> kvm_irq_routing_entry:
    """Interrupt *gsi* is the message *data* written to *address*; *devid* is the device, for an arm64 ITS."""
    entry = kvm_irq_routing_entry(gsi=gsi, type=KVM_IRQ_ROUTING_MSI)
    entry.u.msi.address_lo = address & 0xFFFF_FFFF
    entry.u.msi.address_hi = address >> 32
    entry.u.msi.data = data
    if devid is not None:
        entry.flags = KVM_MSI_VALID_DEVID
        entry.u.msi.devid = devid
    return entry


def pack(entries: Sequence[kvm_irq_routing_entry]) -> Array[c_char]:
    """A ``kvm_irq_routing`` with *entries*."""
    data = bytes(kvm_irq_routing(nr=len(entries))) + b"".join(bytes(entry) for entry in entries)
    return create_string_buffer(data, len(data))
