"""The run page: what a vCPU shares with user space.

Source: Linux include/uapi/linux/kvm.h.
"""

from __future__ import annotations

from ctypes import Structure, Union
from ctypes import c_uint8 as u8
from ctypes import c_uint16 as u16
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64

from pyvmm.pykvm.abi_host import kvm_debug_exit_arch, kvm_sync_regs


class kvm_run(Structure):
    """
    struct kvm_run {
        __u8 request_interrupt_window, immediate_exit;
        __u8 padding1[6];
        __u32 exit_reason;
        __u8 ready_for_interrupt_injection, if_flag;
        __u16 flags;
        __u64 cr8, apic_base;
        union {
            struct {
                __u64 hardware_exit_reason;
            } hw;
            struct {
                __u64 hardware_entry_failure_reason;
                __u32 cpu;
            } fail_entry;
            struct {
                __u32 exception, error_code;
            } ex;
            struct {
                __u8 direction, size;
                __u16 port;
                __u32 count;
                __u64 data_offset;
            } io;
            struct {
                struct kvm_debug_exit_arch arch;
            } debug;
            struct {
                __u64 phys_addr;
                __u8 data[8];
                __u32 len;
                __u8 is_write;
            } mmio;
            struct {
                __u64 nr;
                __u64 args[6];
                __u64 ret;
                __u32 longmode, pad;
            } hypercall;
            struct {
                __u64 rip;
                __u32 is_write, pad;
            } tpr_access;
            struct {
                __u32 suberror, ndata;
                __u64 data[16];
            } internal;
            struct {
                __u32 suberror, ndata;
                __u64 flags;
                union {
                    struct {
                        __u8 insn_size;
                        __u8 insn_bytes[15];
                    };
                };
            } emulation_failure;
            struct {
                __u32 type, ndata;
                union {
                    __u64 flags;
                    __u64 data[16];
                };
            } system_event;
            struct {
                __u8 vector;
            } eoi;
            struct {
                __u64 esr_iss, fault_ipa;
            } arm_nisv;
            struct {
                __u8 error;
                __u8 pad[7];
                __u32 reason, index;
                __u64 data;
            } msr;
            struct {
                __u32 flags;
            } notify;
            char padding[256];
        };
        __u64 kvm_valid_regs, kvm_dirty_regs;
        union {
            struct kvm_sync_regs regs;
            char padding[SYNC_REGS_SIZE_BYTES];
        } s;
    };
    """

    class _u(Union):
        class _hw(Structure):
            _fields_ = [("hardware_exit_reason", u64)]

        class _fail_entry(Structure):
            _fields_ = [("hardware_entry_failure_reason", u64), ("cpu", u32)]

        class _ex(Structure):
            _fields_ = [("exception", u32), ("error_code", u32)]

        class _io(Structure):
            _fields_ = [
                ("direction", u8),
                ("size", u8),
                ("port", u16),
                ("count", u32),
                ("data_offset", u64),
            ]

        class _debug(Structure):
            _fields_ = [("arch", kvm_debug_exit_arch)]

        class _mmio(Structure):
            _fields_ = [("phys_addr", u64), ("data", u8 * 8), ("len", u32), ("is_write", u8)]

        class _hypercall(Structure):
            _fields_ = [
                ("nr", u64),
                ("args", u64 * 6),
                ("ret", u64),
                ("longmode", u32),
                ("pad", u32),
            ]

        class _tpr_access(Structure):
            _fields_ = [("rip", u64), ("is_write", u32), ("pad", u32)]

        class _internal(Structure):
            _fields_ = [("suberror", u32), ("ndata", u32), ("data", u64 * 16)]

        class _emulation_failure(Structure):
            class _u(Union):
                class _u(Structure):
                    _fields_ = [("insn_size", u8), ("insn_bytes", u8 * 15)]

                _anonymous_ = ("u",)
                _fields_ = [("u", _u)]

            _anonymous_ = ("u",)
            _fields_ = [("suberror", u32), ("ndata", u32), ("flags", u64), ("u", _u)]

        class _system_event(Structure):
            class _u(Union):
                _fields_ = [("flags", u64), ("data", u64 * 16)]

            _anonymous_ = ("u",)
            _fields_ = [("type", u32), ("ndata", u32), ("u", _u)]

        class _eoi(Structure):
            _fields_ = [("vector", u8)]

        class _arm_nisv(Structure):
            _fields_ = [("esr_iss", u64), ("fault_ipa", u64)]

        class _msr(Structure):
            _fields_ = [
                ("error", u8),
                ("pad", u8 * 7),
                ("reason", u32),
                ("index", u32),
                ("data", u64),
            ]

        class _notify(Structure):
            _fields_ = [("flags", u32)]

        _fields_ = [
            ("hw", _hw),
            ("fail_entry", _fail_entry),
            ("ex", _ex),
            ("io", _io),
            ("debug", _debug),
            ("mmio", _mmio),
            ("hypercall", _hypercall),
            ("tpr_access", _tpr_access),
            ("internal", _internal),
            ("emulation_failure", _emulation_failure),
            ("system_event", _system_event),
            ("eoi", _eoi),
            ("arm_nisv", _arm_nisv),
            ("msr", _msr),
            ("notify", _notify),
            ("padding", u8 * 256),
        ]

    class _s(Union):
        _fields_ = [("regs", kvm_sync_regs), ("padding", u8 * 2048)]

    _anonymous_ = ("u",)
    _fields_ = [
        ("request_interrupt_window", u8),
        ("immediate_exit", u8),
        ("padding1", u8 * 6),
        ("exit_reason", u32),
        ("ready_for_interrupt_injection", u8),
        ("if_flag", u8),
        ("flags", u16),
        ("cr8", u64),
        ("apic_base", u64),
        ("u", _u),
        ("kvm_valid_regs", u64),
        ("kvm_dirty_regs", u64),
        ("s", _s),
    ]
