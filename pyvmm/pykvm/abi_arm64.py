"""arm64: registers, events and debugging of a vCPU.

Sources: Linux arch/arm64/include/uapi/asm/kvm.h, asm/ptrace.h.
"""

from __future__ import annotations

from ctypes import Structure
from ctypes import c_uint8 as u8
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64


class user_pt_regs(Structure):
    """
    struct user_pt_regs {
        __u64 regs[31];
        __u64 sp, pc, pstate;
    };
    """

    _fields_ = [("regs", u64 * 31), ("sp", u64), ("pc", u64), ("pstate", u64)]


class user_fpsimd_state(Structure):
    """
    struct user_fpsimd_state {
        __uint128_t vregs[32];
        __u32 fpsr, fpcr;
        __u32 __reserved[2];
    };

    ``vregs[i]`` is two 64-bit words here, the low one first.
    """

    _fields_ = [("vregs", (u64 * 2) * 32), ("fpsr", u32), ("fpcr", u32), ("__reserved", u32 * 2)]


class kvm_regs(Structure):
    """
    struct kvm_regs {
        struct user_pt_regs regs;
        __u64 sp_el1, elr_el1;
        __u64 spsr[KVM_NR_SPSR];
        struct user_fpsimd_state fp_regs;
    };

    KVM_GET_REGS is not offered on arm64: the offsets divided by four number the registers of
    KVM_GET_ONE_REG. ``_align`` stands for the 16-byte alignment of ``__uint128_t``.
    """

    _fields_ = [
        ("regs", user_pt_regs),
        ("sp_el1", u64),
        ("elr_el1", u64),
        ("spsr", u64 * 5),
        ("_align", u64),
        ("fp_regs", user_fpsimd_state),
    ]


class kvm_vcpu_init(Structure):
    """
    struct kvm_vcpu_init {
        __u32 target;
        __u32 features[7];
    };
    """

    _fields_ = [("target", u32), ("features", u32 * 7)]


class kvm_guest_debug_arch(Structure):
    """
    struct kvm_guest_debug_arch {
        __u64 dbg_bcr[KVM_ARM_MAX_DBG_REGS];
        __u64 dbg_bvr[KVM_ARM_MAX_DBG_REGS];
        __u64 dbg_wcr[KVM_ARM_MAX_DBG_REGS];
        __u64 dbg_wvr[KVM_ARM_MAX_DBG_REGS];
    };
    """

    _fields_ = [("dbg_bcr", u64 * 16), ("dbg_bvr", u64 * 16), ("dbg_wcr", u64 * 16), ("dbg_wvr", u64 * 16)]


class kvm_guest_debug(Structure):
    """
    struct kvm_guest_debug {
        __u32 control, pad;
        struct kvm_guest_debug_arch arch;
    };
    """

    _fields_ = [("control", u32), ("pad", u32), ("arch", kvm_guest_debug_arch)]


class kvm_vcpu_events(Structure):
    """
    struct kvm_vcpu_events {
        struct {
            __u8 serror_pending, serror_has_esr, ext_dabt_pending;
            __u8 pad[5];
            __u64 serror_esr;
        } exception;
        __u32 reserved[12];
    };
    """

    class _exception(Structure):
        _fields_ = [
            ("serror_pending", u8),
            ("serror_has_esr", u8),
            ("ext_dabt_pending", u8),
            ("pad", u8 * 5),
            ("serror_esr", u64),
        ]

    _fields_ = [("exception", _exception), ("reserved", u32 * 12)]


class kvm_debug_exit_arch(Structure):
    """
    struct kvm_debug_exit_arch {
        __u32 hsr, hsr_high;
        __u64 far;
    };
    """

    _fields_ = [("hsr", u32), ("hsr_high", u32), ("far", u64)]


class kvm_sync_regs(Structure):
    """
    struct kvm_sync_regs {
        __u64 device_irq_level;
    };
    """

    _fields_ = [("device_irq_level", u64)]
