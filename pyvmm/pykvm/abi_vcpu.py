"""What any vCPU has, whatever the architecture: signal mask, run state, single registers, capabilities.

Source: Linux include/uapi/linux/kvm.h.
"""

from __future__ import annotations

from ctypes import Structure
from ctypes import c_uint8 as u8
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64


class kvm_translation(Structure):
    """
    struct kvm_translation {
        __u64 linear_address, physical_address;
        __u8 valid, writeable, usermode;
        __u8 pad[5];
    };
    """

    _fields_ = [
        ("linear_address", u64),
        ("physical_address", u64),
        ("valid", u8),
        ("writeable", u8),
        ("usermode", u8),
        ("pad", u8 * 5),
    ]


class kvm_signal_mask(Structure):
    """
    struct kvm_signal_mask {
        __u32 len;
        __u8 sigset[];
    };
    """

    _fields_ = [("len", u32), ("sigset", u8 * 0)]


class kvm_mp_state(Structure):
    """
    struct kvm_mp_state {
        __u32 mp_state;
    };
    """

    _fields_ = [("mp_state", u32)]


class kvm_one_reg(Structure):
    """
    struct kvm_one_reg {
        __u64 id, addr;
    };
    """

    _fields_ = [("id", u64), ("addr", u64)]


class kvm_reg_list(Structure):
    """
    struct kvm_reg_list {
        __u64 n;
        __u64 reg[];
    };
    """

    _fields_ = [("n", u64), ("reg", u64 * 0)]


class kvm_enable_cap(Structure):
    """
    struct kvm_enable_cap {
        __u32 cap, flags;
        __u64 args[4];
        __u8 pad[64];
    };
    """

    _fields_ = [("cap", u32), ("flags", u32), ("args", u64 * 4), ("pad", u8 * 64)]
