"""Request numbers of arm64 alone.

Source: Linux include/uapi/linux/kvm.h. Beside each number stands the argument its size is of.
"""

from __future__ import annotations

from pyvmm.pykvm.ioctls import ior, iow

# On a VM
KVM_ARM_PREFERRED_TARGET = ior(0xAF, 32)  # kvm_vcpu_init

# On a vCPU
KVM_SET_GUEST_DEBUG = iow(0x9B, 520)  # kvm_guest_debug
KVM_ARM_VCPU_INIT = iow(0xAE, 32)  # kvm_vcpu_init
KVM_ARM_VCPU_FINALIZE = iow(0xC2, 4)  # int
