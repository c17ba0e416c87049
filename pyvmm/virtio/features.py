"""Feature bits and status bits that every device has. Section 2.1, 2.2, 6."""

from __future__ import annotations

# Device status (2.1)
ACKNOWLEDGE = 1
DRIVER = 2
DRIVER_OK = 4
FEATURES_OK = 8
DEVICE_NEEDS_RESET = 64
FAILED = 128

# Reserved feature bits (6): masks, as every feature is here.
F_INDIRECT_DESC = 1 << 28
F_EVENT_IDX = 1 << 29
F_VERSION_1 = 1 << 32
F_ACCESS_PLATFORM = 1 << 33
F_RING_PACKED = 1 << 34
F_IN_ORDER = 1 << 35
F_ORDER_PLATFORM = 1 << 36
F_NOTIFICATION_DATA = 1 << 38
F_RING_RESET = 1 << 40

#: What queue and transport offer on behalf of every device.
COMMON = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX

#: Names of the reserved bits, for messages and traces.
NAMES = {
    F_INDIRECT_DESC: "INDIRECT_DESC",
    F_EVENT_IDX: "EVENT_IDX",
    F_VERSION_1: "VERSION_1",
    F_ACCESS_PLATFORM: "ACCESS_PLATFORM",
    F_RING_PACKED: "RING_PACKED",
    F_IN_ORDER: "IN_ORDER",
    F_ORDER_PLATFORM: "ORDER_PLATFORM",
    F_NOTIFICATION_DATA: "NOTIFICATION_DATA",
    F_RING_RESET: "RING_RESET",
}


def describe(features: int) -> str:
    """The names of *features*, separated by commas: a device type's own bits by number."""
    names = []
    bit = 0
    while features >> bit:
        if features >> bit & 1:
            names.append(NAMES.get(1 << bit, f"bit {bit}"))
        bit += 1
    return ", ".join(names) or "none"
