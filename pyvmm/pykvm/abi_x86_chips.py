"""The in-kernel devices of an x86-64 VM: PIC, I/O APIC, PIT, clock.

Sources: Linux include/uapi/linux/kvm.h, arch/x86/include/uapi/asm/kvm.h.
"""

from __future__ import annotations

from ctypes import Structure, Union
from ctypes import c_int64 as s64
from ctypes import c_uint8 as u8
from ctypes import c_uint16 as u16
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64


class kvm_pic_state(Structure):
    """
    struct kvm_pic_state {
        __u8 last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select;
        __u8 poll, special_mask, init_state, auto_eoi, rotate_on_auto_eoi;
        __u8 special_fully_nested_mode, init4, elcr, elcr_mask;
    };
    """

    _fields_ = [
        ("last_irr", u8),
        ("irr", u8),
        ("imr", u8),
        ("isr", u8),
        ("priority_add", u8),
        ("irq_base", u8),
        ("read_reg_select", u8),
        ("poll", u8),
        ("special_mask", u8),
        ("init_state", u8),
        ("auto_eoi", u8),
        ("rotate_on_auto_eoi", u8),
        ("special_fully_nested_mode", u8),
        ("init4", u8),
        ("elcr", u8),
        ("elcr_mask", u8),
    ]


class kvm_ioapic_state(Structure):
    """
    struct kvm_ioapic_state {
        __u64 base_address;
        __u32 ioregsel, id, irr, pad;
        union {
            __u64 bits;
            struct {
                __u8 vector;
                __u8 delivery_mode:3;
                __u8 dest_mode:1;
                __u8 delivery_status:1;
                __u8 polarity:1;
                __u8 remote_irr:1;
                __u8 trig_mode:1;
                __u8 mask:1;
                __u8 reserve:7;
                __u8 reserved[4];
                __u8 dest_id;
            } fields;
        } redirtbl[KVM_IOAPIC_NUM_PINS];
    };
    """

    class _redirtbl(Union):
        class _fields(Structure):
            _fields_ = [
                ("vector", u8),
                ("delivery_mode", u8, 3),
                ("dest_mode", u8, 1),
                ("delivery_status", u8, 1),
                ("polarity", u8, 1),
                ("remote_irr", u8, 1),
                ("trig_mode", u8, 1),
                ("mask", u8, 1),
                ("reserve", u8, 7),
                ("reserved", u8 * 4),
                ("dest_id", u8),
            ]

        _fields_ = [("bits", u64), ("fields", _fields)]

    _fields_ = [
        ("base_address", u64),
        ("ioregsel", u32),
        ("id", u32),
        ("irr", u32),
        ("pad", u32),
        ("redirtbl", _redirtbl * 24),
    ]


class kvm_irqchip(Structure):
    """
    struct kvm_irqchip {
        __u32 chip_id, pad;
        union {
            char dummy[512];
            struct kvm_pic_state pic;
            struct kvm_ioapic_state ioapic;
        } chip;
    };
    """

    class _chip(Union):
        _fields_ = [("dummy", u8 * 512), ("pic", kvm_pic_state), ("ioapic", kvm_ioapic_state)]

    _fields_ = [("chip_id", u32), ("pad", u32), ("chip", _chip)]


class kvm_pit_channel_state(Structure):
    """
    struct kvm_pit_channel_state {
        __u32 count;
        __u16 latched_count;
        __u8 count_latched, status_latched, status, read_state, write_state;
        __u8 write_latch, rw_mode, mode, bcd, gate;
        __s64 count_load_time;
    };
    """

    _fields_ = [
        ("count", u32),
        ("latched_count", u16),
        ("count_latched", u8),
        ("status_latched", u8),
        ("status", u8),
        ("read_state", u8),
        ("write_state", u8),
        ("write_latch", u8),
        ("rw_mode", u8),
        ("mode", u8),
        ("bcd", u8),
        ("gate", u8),
        ("count_load_time", s64),
    ]


class kvm_pit_state2(Structure):
    """
    struct kvm_pit_state2 {
        struct kvm_pit_channel_state channels[3];
        __u32 flags;
        __u32 reserved[9];
    };
    """

    _fields_ = [("channels", kvm_pit_channel_state * 3), ("flags", u32), ("reserved", u32 * 9)]


class kvm_clock_data(Structure):
    """
    struct kvm_clock_data {
        __u64 clock;
        __u32 flags, pad0;
        __u64 realtime, host_tsc;
        __u32 pad[4];
    };
    """

    _fields_ = [
        ("clock", u64),
        ("flags", u32),
        ("pad0", u32),
        ("realtime", u64),
        ("host_tsc", u64),
        ("pad", u32 * 4),
    ]
