"""The structures nearly every run needs; the rest lies in the ``abi_*`` modules, loaded when used.

Source: Linux include/uapi/linux/kvm.h.
"""

from __future__ import annotations

from ctypes import Structure, Union
from ctypes import c_int32 as s32
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64


class kvm_userspace_memory_region(Structure):
    """
    struct kvm_userspace_memory_region {
        __u32 slot, flags;
        __u64 guest_phys_addr, memory_size, userspace_addr;
    };
    """

    _fields_ = [
        ("slot", u32),
        ("flags", u32),
        ("guest_phys_addr", u64),
        ("memory_size", u64),
        ("userspace_addr", u64),
    ]


class kvm_irq_level(Structure):
    """
    struct kvm_irq_level {
        union {
            __u32 irq;
            __s32 status;
        };
        __u32 level;
    };
    """

    class _u(Union):
        _fields_ = [("irq", u32), ("status", s32)]

    _anonymous_ = ("u",)
    _fields_ = [("u", _u), ("level", u32)]


class kvm_pit_config(Structure):
    """
    struct kvm_pit_config {
        __u32 flags;
        __u32 pad[15];
    };
    """

    _fields_ = [("flags", u32), ("pad", u32 * 15)]


class kvm_coalesced_mmio_zone(Structure):
    """
    struct kvm_coalesced_mmio_zone {
        __u64 addr;
        __u32 size;
        union {
            __u32 pad, pio;
        };
    };
    """

    class _u(Union):
        _fields_ = [("pad", u32), ("pio", u32)]

    _anonymous_ = ("u",)
    _fields_ = [("addr", u64), ("size", u32), ("u", _u)]
