"""Devices that KVM emulates, and their attributes.

Source: Linux include/uapi/linux/kvm.h.
"""

from __future__ import annotations

from ctypes import Structure
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64


class kvm_create_device(Structure):
    """
    struct kvm_create_device {
        __u32 type, fd, flags;
    };
    """

    _fields_ = [("type", u32), ("fd", u32), ("flags", u32)]


class kvm_device_attr(Structure):
    """
    struct kvm_device_attr {
        __u32 flags, group;
        __u64 attr, addr;
    };
    """

    _fields_ = [("flags", u32), ("group", u32), ("attr", u64), ("addr", u64)]
