"""The dirty log, and the ring of coalesced writes.

Source: Linux include/uapi/linux/kvm.h.
"""

from __future__ import annotations

from ctypes import Structure, Union
from ctypes import c_uint8 as u8
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64


class kvm_dirty_log(Structure):
    """
    struct kvm_dirty_log {
        __u32 slot, padding1;
        union {
            void *dirty_bitmap;
            __u64 padding2;
        };
    };
    """

    class _u(Union):
        _fields_ = [("dirty_bitmap", u64), ("padding2", u64)]

    _anonymous_ = ("u",)
    _fields_ = [("slot", u32), ("padding1", u32), ("u", _u)]


class kvm_clear_dirty_log(Structure):
    """
    struct kvm_clear_dirty_log {
        __u32 slot, num_pages;
        __u64 first_page;
        union {
            void *dirty_bitmap;
            __u64 padding2;
        };
    };
    """

    class _u(Union):
        _fields_ = [("dirty_bitmap", u64), ("padding2", u64)]

    _anonymous_ = ("u",)
    _fields_ = [("slot", u32), ("num_pages", u32), ("first_page", u64), ("u", _u)]


class kvm_coalesced_mmio(Structure):
    """
    struct kvm_coalesced_mmio {
        __u64 phys_addr;
        __u32 len;
        union {
            __u32 pad, pio;
        };
        __u8 data[8];
    };
    """

    class _u(Union):
        _fields_ = [("pad", u32), ("pio", u32)]

    _anonymous_ = ("u",)
    _fields_ = [("phys_addr", u64), ("len", u32), ("u", _u), ("data", u8 * 8)]


class kvm_coalesced_mmio_ring(Structure):
    """
    struct kvm_coalesced_mmio_ring {
        __u32 first, last;
        struct kvm_coalesced_mmio coalesced_mmio[];
    };
    """

    _fields_ = [("first", u32), ("last", u32), ("coalesced_mmio", kvm_coalesced_mmio * 0)]
