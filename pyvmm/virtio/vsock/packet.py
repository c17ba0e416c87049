"""The packets of the socket device. Section 5.10.6; ``struct virtio_vsock_hdr`` in linux/virtio_vsock.h."""

from __future__ import annotations

from struct import Struct

# Well-known context identifiers (5.10.4)
CID_HOST = 2
#: Guests have one from here to 2**32 - 2.
CID_FIRST_GUEST = 3
CID_LAST_GUEST = 0xFFFF_FFFE
#: The number that is no port (VMADDR_PORT_ANY in linux/vm_sockets.h).
PORT_ANY = 0xFFFF_FFFF

#: The ports of the host's end of connections that the host begins.
FIRST_HOST_PORT, LAST_HOST_PORT = 1 << 30, (1 << 31) - 1

# Feature bits (5.10.3)
F_STREAM = 1 << 0

# Socket types
TYPE_STREAM = 1

# Operations
OP_REQUEST = 1
OP_RESPONSE = 2
OP_RST = 3
OP_SHUTDOWN = 4
OP_RW = 5
OP_CREDIT_UPDATE = 6
OP_CREDIT_REQUEST = 7

OP_NAMES = {
    OP_REQUEST: "REQUEST",
    OP_RESPONSE: "RESPONSE",
    OP_RST: "RST",
    OP_SHUTDOWN: "SHUTDOWN",
    OP_RW: "RW",
    OP_CREDIT_UPDATE: "CREDIT_UPDATE",
    OP_CREDIT_REQUEST: "CREDIT_REQUEST",
}

# Flags of OP_SHUTDOWN: what its sender will no longer do
SHUTDOWN_RECEIVE = 1
SHUTDOWN_SEND = 2
SHUTDOWN_BOTH = SHUTDOWN_RECEIVE | SHUTDOWN_SEND

#: src_cid, dst_cid, src_port, dst_port, len, type, op, flags, buf_alloc, fwd_cnt.
HEADER = Struct("<QQIIIHHIII")
HEADER_SIZE = HEADER.size
#: The most data of one packet, as Linux has it (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE).
MAX_DATA = 64 << 10
#: Counters of bytes are 32 bits wide and wrap.
MASK32 = 0xFFFF_FFFF


def describe(packet: bytes) -> str:
    """The packet that begins *packet*, for a trace."""
    if len(packet) < HEADER_SIZE:
        return f"{len(packet)} bytes, no header"
    source, target, source_port, target_port, size, kind, op, flags, room, taken = HEADER.unpack_from(packet)
    return (
        f"{OP_NAMES.get(op, op)} {source}:{source_port} to {target}:{target_port}, type {kind}, "
        f"{size} bytes, flags {flags:#x}, buf_alloc {room}, fwd_cnt {taken}"
    )
