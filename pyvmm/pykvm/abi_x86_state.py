"""The rest of an x86-64 vCPU: FPU, XSAVE, debug registers, pending events, MSRs, CPUID, guest debugging.

Sources: Linux include/uapi/linux/kvm.h, arch/x86/include/uapi/asm/kvm.h.
"""

from __future__ import annotations

from ctypes import Structure
from ctypes import c_uint8 as u8
from ctypes import c_uint16 as u16
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64

from pyvmm.pykvm.abi_x86 import kvm_dtable, kvm_regs, kvm_segment, kvm_sregs


class kvm_sregs2(Structure):
    """
    struct kvm_sregs2 {
        struct kvm_segment cs, ds, es, fs, gs, ss, tr, ldt;
        struct kvm_dtable gdt, idt;
        __u64 cr0, cr2, cr3, cr4, cr8, efer, apic_base, flags;
        __u64 pdptrs[4];
    };
    """

    _fields_ = [
        ("cs", kvm_segment),
        ("ds", kvm_segment),
        ("es", kvm_segment),
        ("fs", kvm_segment),
        ("gs", kvm_segment),
        ("ss", kvm_segment),
        ("tr", kvm_segment),
        ("ldt", kvm_segment),
        ("gdt", kvm_dtable),
        ("idt", kvm_dtable),
        ("cr0", u64),
        ("cr2", u64),
        ("cr3", u64),
        ("cr4", u64),
        ("cr8", u64),
        ("efer", u64),
        ("apic_base", u64),
        ("flags", u64),
        ("pdptrs", u64 * 4),
    ]


class kvm_fpu(Structure):
    """
    struct kvm_fpu {
        __u8 fpr[8][16];
        __u16 fcw, fsw;
        __u8 ftwx, pad1;
        __u16 last_opcode;
        __u64 last_ip, last_dp;
        __u8 xmm[16][16];
        __u32 mxcsr, pad2;
    };
    """

    _fields_ = [
        ("fpr", (u8 * 16) * 8),
        ("fcw", u16),
        ("fsw", u16),
        ("ftwx", u8),
        ("pad1", u8),
        ("last_opcode", u16),
        ("last_ip", u64),
        ("last_dp", u64),
        ("xmm", (u8 * 16) * 16),
        ("mxcsr", u32),
        ("pad2", u32),
    ]


class kvm_xsave(Structure):
    """
    struct kvm_xsave {
        __u32 region[1024];
        __u32 extra[];
    };
    """

    _fields_ = [("region", u32 * 1024), ("extra", u32 * 0)]


class kvm_xcr(Structure):
    """
    struct kvm_xcr {
        __u32 xcr, reserved;
        __u64 value;
    };
    """

    _fields_ = [("xcr", u32), ("reserved", u32), ("value", u64)]


class kvm_xcrs(Structure):
    """
    struct kvm_xcrs {
        __u32 nr_xcrs, flags;
        struct kvm_xcr xcrs[KVM_MAX_XCRS];
        __u64 padding[16];
    };
    """

    _fields_ = [("nr_xcrs", u32), ("flags", u32), ("xcrs", kvm_xcr * 16), ("padding", u64 * 16)]


class kvm_debugregs(Structure):
    """
    struct kvm_debugregs {
        __u64 db[4];
        __u64 dr6, dr7, flags;
        __u64 reserved[9];
    };
    """

    _fields_ = [
        ("db", u64 * 4),
        ("dr6", u64),
        ("dr7", u64),
        ("flags", u64),
        ("reserved", u64 * 9),
    ]


class kvm_vcpu_events(Structure):
    """
    struct kvm_vcpu_events {
        struct {
            __u8 injected, nr, has_error_code, pending;
            __u32 error_code;
        } exception;
        struct {
            __u8 injected, nr, soft, shadow;
        } interrupt;
        struct {
            __u8 injected, pending, masked, pad;
        } nmi;
        __u32 sipi_vector, flags;
        struct {
            __u8 smm, pending, smm_inside_nmi, latched_init;
        } smi;
        struct {
            __u8 pending;
        } triple_fault;
        __u8 reserved[26];
        __u8 exception_has_payload;
        __u64 exception_payload;
    };
    """

    class _exception(Structure):
        _fields_ = [
            ("injected", u8),
            ("nr", u8),
            ("has_error_code", u8),
            ("pending", u8),
            ("error_code", u32),
        ]

    class _interrupt(Structure):
        _fields_ = [("injected", u8), ("nr", u8), ("soft", u8), ("shadow", u8)]

    class _nmi(Structure):
        _fields_ = [("injected", u8), ("pending", u8), ("masked", u8), ("pad", u8)]

    class _smi(Structure):
        _fields_ = [("smm", u8), ("pending", u8), ("smm_inside_nmi", u8), ("latched_init", u8)]

    class _triple_fault(Structure):
        _fields_ = [("pending", u8)]

    _fields_ = [
        ("exception", _exception),
        ("interrupt", _interrupt),
        ("nmi", _nmi),
        ("sipi_vector", u32),
        ("flags", u32),
        ("smi", _smi),
        ("triple_fault", _triple_fault),
        ("reserved", u8 * 26),
        ("exception_has_payload", u8),
        ("exception_payload", u64),
    ]


class kvm_msr_entry(Structure):
    """
    struct kvm_msr_entry {
        __u32 index, reserved;
        __u64 data;
    };
    """

    _fields_ = [("index", u32), ("reserved", u32), ("data", u64)]


class kvm_msrs(Structure):
    """
    struct kvm_msrs {
        __u32 nmsrs, pad;
        struct kvm_msr_entry entries[];
    };
    """

    _fields_ = [("nmsrs", u32), ("pad", u32), ("entries", kvm_msr_entry * 0)]


class kvm_msr_list(Structure):
    """
    struct kvm_msr_list {
        __u32 nmsrs;
        __u32 indices[];
    };
    """

    _fields_ = [("nmsrs", u32), ("indices", u32 * 0)]


class kvm_cpuid_entry2(Structure):
    """
    struct kvm_cpuid_entry2 {
        __u32 function, index, flags, eax, ebx, ecx, edx;
        __u32 padding[3];
    };
    """

    _fields_ = [
        ("function", u32),
        ("index", u32),
        ("flags", u32),
        ("eax", u32),
        ("ebx", u32),
        ("ecx", u32),
        ("edx", u32),
        ("padding", u32 * 3),
    ]


class kvm_cpuid2(Structure):
    """
    struct kvm_cpuid2 {
        __u32 nent, padding;
        struct kvm_cpuid_entry2 entries[];
    };
    """

    _fields_ = [("nent", u32), ("padding", u32), ("entries", kvm_cpuid_entry2 * 0)]


class kvm_guest_debug_arch(Structure):
    """
    struct kvm_guest_debug_arch {
        __u64 debugreg[8];
    };
    """

    _fields_ = [("debugreg", u64 * 8)]


class kvm_guest_debug(Structure):
    """
    struct kvm_guest_debug {
        __u32 control, pad;
        struct kvm_guest_debug_arch arch;
    };
    """

    _fields_ = [("control", u32), ("pad", u32), ("arch", kvm_guest_debug_arch)]


class kvm_debug_exit_arch(Structure):
    """
    struct kvm_debug_exit_arch {
        __u32 exception, pad;
        __u64 pc, dr6, dr7;
    };
    """

    _fields_ = [
        ("exception", u32),
        ("pad", u32),
        ("pc", u64),
        ("dr6", u64),
        ("dr7", u64),
    ]


class kvm_sync_regs(Structure):
    """
    struct kvm_sync_regs {
        struct kvm_regs regs;
        struct kvm_sregs sregs;
        struct kvm_vcpu_events events;
    };
    """

    _fields_ = [("regs", kvm_regs), ("sregs", kvm_sregs), ("events", kvm_vcpu_events)]
