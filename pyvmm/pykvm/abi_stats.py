"""The binary statistics file.

Source: Linux include/uapi/linux/kvm.h.
"""

from __future__ import annotations

from ctypes import Structure
from ctypes import c_int16 as s16
from ctypes import c_uint8 as u8
from ctypes import c_uint16 as u16
from ctypes import c_uint32 as u32


class kvm_stats_header(Structure):
    """
    struct kvm_stats_header {
        __u32 flags, name_size, num_desc, id_offset, desc_offset, data_offset;
    };
    """

    _fields_ = [
        ("flags", u32),
        ("name_size", u32),
        ("num_desc", u32),
        ("id_offset", u32),
        ("desc_offset", u32),
        ("data_offset", u32),
    ]


class kvm_stats_desc(Structure):
    """
    struct kvm_stats_desc {
        __u32 flags;
        __s16 exponent;
        __u16 size;
        __u32 offset, bucket_size;
        char name[];
    };
    """

    _fields_ = [
        ("flags", u32),
        ("exponent", s16),
        ("size", u16),
        ("offset", u32),
        ("bucket_size", u32),
        ("name", u8 * 0),
    ]
