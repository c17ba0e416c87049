"""Interrupt routing, MSI, and eventfds as interrupts and doorbells.

Source: Linux include/uapi/linux/kvm.h.
"""

from __future__ import annotations

from ctypes import Structure, Union
from ctypes import c_int32 as s32
from ctypes import c_uint8 as u8
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64


class kvm_irq_routing_irqchip(Structure):
    """
    struct kvm_irq_routing_irqchip {
        __u32 irqchip, pin;
    };
    """

    _fields_ = [("irqchip", u32), ("pin", u32)]


class kvm_irq_routing_msi(Structure):
    """
    struct kvm_irq_routing_msi {
        __u32 address_lo, address_hi, data;
        union {
            __u32 pad, devid;
        };
    };
    """

    class _u(Union):
        _fields_ = [("pad", u32), ("devid", u32)]

    _anonymous_ = ("u",)
    _fields_ = [("address_lo", u32), ("address_hi", u32), ("data", u32), ("u", _u)]


class kvm_irq_routing_s390_adapter(Structure):
    """
    struct kvm_irq_routing_s390_adapter {
        __u64 ind_addr, summary_addr, ind_offset;
        __u32 summary_offset, adapter_id;
    };
    """

    _fields_ = [
        ("ind_addr", u64),
        ("summary_addr", u64),
        ("ind_offset", u64),
        ("summary_offset", u32),
        ("adapter_id", u32),
    ]


class kvm_irq_routing_hv_sint(Structure):
    """
    struct kvm_irq_routing_hv_sint {
        __u32 vcpu, sint;
    };
    """

    _fields_ = [("vcpu", u32), ("sint", u32)]


class kvm_irq_routing_xen_evtchn(Structure):
    """
    struct kvm_irq_routing_xen_evtchn {
        __u32 port, vcpu, priority;
    };
    """

    _fields_ = [("port", u32), ("vcpu", u32), ("priority", u32)]


class kvm_irq_routing_entry(Structure):
    """
    struct kvm_irq_routing_entry {
        __u32 gsi, type, flags, pad;
        union {
            struct kvm_irq_routing_irqchip irqchip;
            struct kvm_irq_routing_msi msi;
            struct kvm_irq_routing_s390_adapter adapter;
            struct kvm_irq_routing_hv_sint hv_sint;
            struct kvm_irq_routing_xen_evtchn xen_evtchn;
            __u32 pad[8];
        } u;
    };
    """

    class _u(Union):
        _fields_ = [
            ("irqchip", kvm_irq_routing_irqchip),
            ("msi", kvm_irq_routing_msi),
            ("adapter", kvm_irq_routing_s390_adapter),
            ("hv_sint", kvm_irq_routing_hv_sint),
            ("xen_evtchn", kvm_irq_routing_xen_evtchn),
            ("pad", u32 * 8),
        ]

    _fields_ = [
        ("gsi", u32),
        ("type", u32),
        ("flags", u32),
        ("pad", u32),
        ("u", _u),
    ]


class kvm_irq_routing(Structure):
    """
    struct kvm_irq_routing {
        __u32 nr, flags;
        struct kvm_irq_routing_entry entries[];
    };
    """

    _fields_ = [("nr", u32), ("flags", u32), ("entries", kvm_irq_routing_entry * 0)]


class kvm_msi(Structure):
    """
    struct kvm_msi {
        __u32 address_lo, address_hi, data, flags, devid;
        __u8 pad[12];
    };
    """

    _fields_ = [
        ("address_lo", u32),
        ("address_hi", u32),
        ("data", u32),
        ("flags", u32),
        ("devid", u32),
        ("pad", u8 * 12),
    ]


class kvm_irqfd(Structure):
    """
    struct kvm_irqfd {
        __u32 fd, gsi, flags, resamplefd;
        __u8 pad[16];
    };
    """

    _fields_ = [
        ("fd", u32),
        ("gsi", u32),
        ("flags", u32),
        ("resamplefd", u32),
        ("pad", u8 * 16),
    ]


class kvm_ioeventfd(Structure):
    """
    struct kvm_ioeventfd {
        __u64 datamatch, addr;
        __u32 len;
        __s32 fd;
        __u32 flags;
        __u8 pad[36];
    };
    """

    _fields_ = [
        ("datamatch", u64),
        ("addr", u64),
        ("len", u32),
        ("fd", s32),
        ("flags", u32),
        ("pad", u8 * 36),
    ]
