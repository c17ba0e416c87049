"""Request numbers of x86-64 alone.

Source: Linux include/uapi/linux/kvm.h. Beside each number stands the argument its size is of.
"""

from __future__ import annotations

from pyvmm.pykvm.ioctls import io, ior, iow, iowr

# On /dev/kvm
KVM_GET_MSR_INDEX_LIST = iowr(0x02, 4)  # kvm_msr_list
KVM_GET_SUPPORTED_CPUID = iowr(0x05, 8)  # kvm_cpuid2
KVM_GET_EMULATED_CPUID = iowr(0x09, 8)  # kvm_cpuid2
KVM_GET_MSR_FEATURE_INDEX_LIST = iowr(0x0A, 4)  # kvm_msr_list

# On a VM
KVM_SET_TSS_ADDR = io(0x47)
KVM_SET_IDENTITY_MAP_ADDR = iow(0x48, 8)  # __u64
KVM_GET_IRQCHIP = iowr(0x62, 520)  # kvm_irqchip
KVM_SET_IRQCHIP = ior(0x63, 520)  # kvm_irqchip
KVM_CREATE_PIT2 = iow(0x77, 64)  # kvm_pit_config
KVM_SET_CLOCK = iow(0x7B, 48)  # kvm_clock_data
KVM_GET_CLOCK = ior(0x7C, 48)  # kvm_clock_data
KVM_GET_PIT2 = ior(0x9F, 112)  # kvm_pit_state2
KVM_SET_PIT2 = iow(0xA0, 112)  # kvm_pit_state2

# On a vCPU
KVM_GET_REGS = ior(0x81, 144)  # kvm_regs
KVM_SET_REGS = iow(0x82, 144)  # kvm_regs
KVM_GET_SREGS = ior(0x83, 312)  # kvm_sregs
KVM_SET_SREGS = iow(0x84, 312)  # kvm_sregs
KVM_GET_MSRS = iowr(0x88, 8)  # kvm_msrs; on /dev/kvm too
KVM_SET_MSRS = iow(0x89, 8)  # kvm_msrs
KVM_GET_FPU = ior(0x8C, 416)  # kvm_fpu
KVM_SET_FPU = iow(0x8D, 416)  # kvm_fpu
KVM_GET_LAPIC = ior(0x8E, 1024)  # kvm_lapic_state
KVM_SET_LAPIC = iow(0x8F, 1024)  # kvm_lapic_state
KVM_SET_CPUID2 = iow(0x90, 8)  # kvm_cpuid2
KVM_GET_CPUID2 = iowr(0x91, 8)  # kvm_cpuid2
KVM_NMI = io(0x9A)
KVM_SET_GUEST_DEBUG = iow(0x9B, 72)  # kvm_guest_debug
KVM_GET_DEBUGREGS = ior(0xA1, 128)  # kvm_debugregs
KVM_SET_DEBUGREGS = iow(0xA2, 128)  # kvm_debugregs
KVM_SET_TSC_KHZ = io(0xA2)
KVM_GET_TSC_KHZ = io(0xA3)
KVM_GET_XSAVE = ior(0xA4, 4096)  # kvm_xsave
KVM_SET_XSAVE = iow(0xA5, 4096)  # kvm_xsave
KVM_GET_XCRS = ior(0xA6, 392)  # kvm_xcrs
KVM_SET_XCRS = iow(0xA7, 392)  # kvm_xcrs
KVM_KVMCLOCK_CTRL = io(0xAD)
KVM_GET_SREGS2 = ior(0xCC, 320)  # kvm_sregs2
KVM_SET_SREGS2 = iow(0xCD, 320)  # kvm_sregs2
KVM_GET_XSAVE2 = ior(0xCF, 4096)  # kvm_xsave; KVM writes what KVM_CAP_XSAVE2 says
