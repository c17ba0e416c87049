"""Frames made by hand, and the Internet's checksum."""

from __future__ import annotations

import random
import struct


def internet_sum(data: bytes) -> int:
    """RFC 1071, as it is written there."""
    data += bytes(len(data) & 1)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp_frame(payload: bytes, version: int = 4, vlan: bool = False) -> tuple[bytes, int]:
    """A frame and where its TCP header lies; its checksum is that of the pseudo header alone."""
    addresses = random.Random(7).randbytes(8 if version == 4 else 32)
    size = 20 + len(payload)
    pseudo = internet_sum(addresses + size.to_bytes(4, "big") + (6).to_bytes(4, "big"))
    tcp = struct.pack(">HHIIBBHHH", 80, 1234, 0xFFFF_FF00, 5, 0x50, 0x99, 500, pseudo, 0)
    if version == 4:
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + size, 0xFFFE, 0x4000, 64, 6, 0) + addresses
    else:
        ip = struct.pack(">IHBB", 6 << 28, size, 6, 64) + addresses
    tag = b"\x81\x00\x00\x05" if vlan else b""
    kind = b"\x08\x00" if version == 4 else b"\x86\xdd"
    before = b"\xff" * 6 + b"\2" * 6 + tag + kind + ip
    return before + tcp + payload, len(before)
