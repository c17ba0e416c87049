"""Request numbers that every architecture has: direction, size of the argument, number.

Sources: Linux include/uapi/linux/kvm.h; include/uapi/asm-generic/ioctl.h for the encoding.
Beside each number stands the argument its size is of.
"""

from __future__ import annotations

KVMIO = 0xAE


def io(number: int) -> int:
    """The request *number* (0 to 255) with no argument, or with an integer as one."""
    return KVMIO << 8 | number


def iow(number: int, size: int) -> int:
    """The request *number* (0 to 255) whose argument of *size* bytes, below 16384, KVM reads."""
    return 1 << 30 | size << 16 | KVMIO << 8 | number


def ior(number: int, size: int) -> int:
    """The request *number* (0 to 255) whose argument of *size* bytes, below 16384, KVM writes."""
    return 2 << 30 | size << 16 | KVMIO << 8 | number


def iowr(number: int, size: int) -> int:
    """The request *number* (0 to 255) whose argument of *size* bytes, below 16384, KVM reads and writes."""
    return 3 << 30 | size << 16 | KVMIO << 8 | number


# On /dev/kvm
KVM_GET_API_VERSION = io(0x00)
KVM_CREATE_VM = io(0x01)
KVM_CHECK_EXTENSION = io(0x03)
KVM_GET_VCPU_MMAP_SIZE = io(0x04)

# On a VM
KVM_CREATE_VCPU = io(0x41)
KVM_GET_DIRTY_LOG = iow(0x42, 16)  # kvm_dirty_log
KVM_SET_USER_MEMORY_REGION = iow(0x46, 32)  # kvm_userspace_memory_region
KVM_CREATE_IRQCHIP = io(0x60)
KVM_IRQ_LINE = iow(0x61, 8)  # kvm_irq_level
KVM_REGISTER_COALESCED_MMIO = iow(0x67, 16)  # kvm_coalesced_mmio_zone
KVM_UNREGISTER_COALESCED_MMIO = iow(0x68, 16)  # kvm_coalesced_mmio_zone
KVM_SET_GSI_ROUTING = iow(0x6A, 8)  # kvm_irq_routing
KVM_IRQFD = iow(0x76, 32)  # kvm_irqfd
KVM_IOEVENTFD = iow(0x79, 64)  # kvm_ioeventfd
KVM_SIGNAL_MSI = iow(0xA5, 32)  # kvm_msi
KVM_CLEAR_DIRTY_LOG = iowr(0xC0, 24)  # kvm_clear_dirty_log
KVM_CREATE_DEVICE = iowr(0xE0, 12)  # kvm_create_device

# On a VM or a vCPU
KVM_ENABLE_CAP = iow(0xA3, 104)  # kvm_enable_cap
KVM_GET_STATS_FD = io(0xCE)
KVM_SET_DEVICE_ATTR = iow(0xE1, 24)  # kvm_device_attr
KVM_GET_DEVICE_ATTR = iow(0xE2, 24)  # kvm_device_attr
KVM_HAS_DEVICE_ATTR = iow(0xE3, 24)  # kvm_device_attr

# On a vCPU
KVM_RUN = io(0x80)
KVM_TRANSLATE = iowr(0x85, 24)  # kvm_translation
KVM_SET_SIGNAL_MASK = iow(0x8B, 4)  # kvm_signal_mask
KVM_GET_MP_STATE = ior(0x98, 4)  # kvm_mp_state
KVM_SET_MP_STATE = iow(0x99, 4)  # kvm_mp_state
KVM_GET_VCPU_EVENTS = ior(0x9F, 64)  # kvm_vcpu_events
KVM_SET_VCPU_EVENTS = iow(0xA0, 64)  # kvm_vcpu_events
KVM_GET_ONE_REG = iow(0xAB, 16)  # kvm_one_reg
KVM_SET_ONE_REG = iow(0xAC, 16)  # kvm_one_reg
KVM_GET_REG_LIST = iowr(0xB0, 8)  # kvm_reg_list
