"""Feature bits of the network device, and the offloads they stand for. Section 5.1.3."""

from __future__ import annotations

from pyvmm.backends.net.base import CSUM, ECN, TSO4, TSO6

# Feature bits (5.1.3)
F_CSUM = 1 << 0
F_GUEST_CSUM = 1 << 1
F_CTRL_GUEST_OFFLOADS = 1 << 2
F_MTU = 1 << 3
F_MAC = 1 << 5
F_GUEST_TSO4 = 1 << 7
F_GUEST_TSO6 = 1 << 8
F_GUEST_ECN = 1 << 9
F_HOST_TSO4 = 1 << 11
F_HOST_TSO6 = 1 << 12
F_HOST_ECN = 1 << 13
F_MRG_RXBUF = 1 << 15
F_STATUS = 1 << 16
F_CTRL_VQ = 1 << 17
F_CTRL_RX = 1 << 18
F_MQ = 1 << 22
F_CTRL_MAC_ADDR = 1 << 23
F_SPEED_DUPLEX = 1 << 63

NAMES = {
    F_CSUM: "CSUM",
    F_GUEST_CSUM: "GUEST_CSUM",
    F_CTRL_GUEST_OFFLOADS: "CTRL_GUEST_OFFLOADS",
    F_MTU: "MTU",
    F_MAC: "MAC",
    F_GUEST_TSO4: "GUEST_TSO4",
    F_GUEST_TSO6: "GUEST_TSO6",
    F_GUEST_ECN: "GUEST_ECN",
    F_HOST_TSO4: "HOST_TSO4",
    F_HOST_TSO6: "HOST_TSO6",
    F_HOST_ECN: "HOST_ECN",
    F_MRG_RXBUF: "MRG_RXBUF",
    F_STATUS: "STATUS",
    F_CTRL_VQ: "CTRL_VQ",
    F_CTRL_RX: "CTRL_RX",
    F_MQ: "MQ",
    F_CTRL_MAC_ADDR: "CTRL_MAC_ADDR",
    F_SPEED_DUPLEX: "SPEED_DUPLEX",
}

#: What a backend's offloads are called by a driver that receives, and by one that sends.
GUEST_BITS = {CSUM: F_GUEST_CSUM, TSO4: F_GUEST_TSO4, TSO6: F_GUEST_TSO6, ECN: F_GUEST_ECN}
HOST_BITS = {CSUM: F_CSUM, TSO4: F_HOST_TSO4, TSO6: F_HOST_TSO6, ECN: F_HOST_ECN}
