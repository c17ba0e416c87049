"""The header before each frame (5.1.6), and doing in software what it leaves undone.

Frames of other guests come with headers those guests wrote: ``check`` makes them safe to hand on.
``complete`` is for a driver that accepted less than the sender left undone. It is slow, and rarely needed.
"""

from __future__ import annotations

from struct import Struct, pack_into

from pyvmm.backends.net.base import CSUM, ECN, HEADER, TSO4, TSO6

# flags, gso_type (5.1.6)
F_NEEDS_CSUM = 1
F_DATA_VALID = 2
GSO_NONE = 0
GSO_TCPV4 = 1
GSO_TCPV6 = 4
GSO_ECN = 0x80

#: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers
LAYOUT = Struct("<BBHHHHH")
#: The header of a frame with nothing left to do.
PLAIN = bytes(HEADER)
#: Where num_buffers lies.
NUM_BUFFERS = 10
#: Frames one frame may become; a guest can ask for 65,000 of one byte each.
MAX_SEGMENTS = 128

_GSO_OFFLOADS = {GSO_TCPV4: TSO4, GSO_TCPV6: TSO6}
_ETH_IPV4, _ETH_IPV6, _ETH_VLAN = 0x0800, 0x86DD, 0x8100
_TCP = 6
_FIN_PSH, _CWR = 0x09, 0x80


class HeaderError(ValueError):
    """A header that breaks a rule, or describes a frame that it is not the header of."""


def check(header: bytes, size: int) -> bytes:
    """The header to hand on for a frame of *size* bytes. Raises HeaderError for one that breaks a rule."""
    if not header[0] & F_NEEDS_CSUM:
        if header[1]:
            raise HeaderError("a frame to be segmented has its checksum done (5.1.6.2.1)")
        return PLAIN
    _, gso, header_size, gso_size, start, offset, _ = LAYOUT.unpack(header)
    if start + offset + 2 > size:
        raise HeaderError(f"its checksum lies at {start + offset}, and the frame has {size} bytes")
    kind = gso & ~GSO_ECN
    if kind == GSO_NONE:
        if gso:
            raise HeaderError(f"gso_type is {gso:#x}, which is none")
    elif kind not in _GSO_OFFLOADS or not gso_size:
        raise HeaderError(f"gso_type {gso:#x} with gso_size {gso_size} is not offered")
    return LAYOUT.pack(F_NEEDS_CSUM, gso, header_size, gso_size, start, offset, 0)


def left_undone(header: bytes) -> int:
    """What the frame of a checked *header* leaves to its receiver: CSUM, TSO4, TSO6, ECN."""
    if not header[0]:
        return 0
    gso = header[1]
    return CSUM | _GSO_OFFLOADS.get(gso & ~GSO_ECN, 0) | (ECN if gso & GSO_ECN else 0)


def complete(header: bytes, frame: bytes) -> list[bytes]:
    """The frames, with every checksum, that *frame* with its checked *header* stands for.

    Raises HeaderError when the frame is not what its header says.
    """
    _, gso, _, gso_size, start, offset, _ = LAYOUT.unpack(header)
    if gso & ~GSO_ECN == GSO_NONE:
        whole = bytearray(frame)
        # The field holds the sum of the pseudo header, which belongs into the sum.
        pack_into(">H", whole, start + offset, _checksum(whole[start:]) or 0xFFFF)
        return [bytes(whole)]
    return _segment(frame, start, gso_size)


def _segment(frame: bytes, tcp: int, gso_size: int) -> list[bytes]:
    at, kind = 14, int.from_bytes(frame[12:14], "big")
    if kind == _ETH_VLAN:
        at, kind = 18, int.from_bytes(frame[16:18], "big")
    body = tcp + (frame[tcp + 12] >> 4) * 4 if tcp + 20 <= len(frame) else 0
    least = {_ETH_IPV4: 20, _ETH_IPV6: 40}.get(kind, len(frame))
    if not at + least <= tcp or not tcp + 20 <= body < len(frame):
        raise HeaderError("a frame to be segmented is not TCP over IP")
    count = -(-(len(frame) - body) // gso_size)
    if count > MAX_SEGMENTS:
        raise HeaderError(
            f"a frame of {len(frame)} bytes would become {count} frames; {MAX_SEGMENTS} is the most"
        )
    sequence, identifier = (
        int.from_bytes(frame[tcp + 4 : tcp + 8], "big"),
        int.from_bytes(frame[at + 4 : at + 6], "big"),
    )
    found = []
    for n in range(count):
        data = frame[body + n * gso_size : body + (n + 1) * gso_size]
        one = bytearray(frame[:body] + data)
        size = len(one) - tcp
        if kind == _ETH_IPV4:
            pack_into(">H", one, at + 2, len(one) - at)
            pack_into(">HxxxxH", one, at + 4, (identifier + n) & 0xFFFF, 0)
            pack_into(">H", one, at + 10, _checksum(one[at : at + (one[at] & 15) * 4]))
            addresses = one[at + 12 : at + 20]
        else:
            pack_into(">H", one, at + 4, len(one) - at - 40)
            addresses = one[at + 8 : at + 40]
        pack_into(">I", one, tcp + 4, (sequence + n * gso_size) & 0xFFFF_FFFF)
        if n < count - 1:
            one[tcp + 13] &= ~_FIN_PSH & 0xFF
        if n:
            one[tcp + 13] &= ~_CWR & 0xFF
        pack_into(">H", one, tcp + 16, 0)
        pseudo = bytes(addresses) + size.to_bytes(4, "big") + _TCP.to_bytes(4, "big")
        pack_into(">H", one, tcp + 16, _checksum(pseudo + one[tcp:]))
        found.append(bytes(one))
    return found


def _checksum(data: bytes | bytearray) -> int:
    """The Internet checksum (RFC 1071) of *data*."""
    if len(data) & 1:
        data = data + b"\0"
    # A number is congruent to the sum of its 16-bit digits modulo 2^16 - 1.
    rest = int.from_bytes(data, "big") % 0xFFFF
    return ~rest & 0xFFFF if rest or not any(data) else 0
