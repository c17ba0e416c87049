"""Frames of the exec protocol, version 2: bytes to frames and back.

The layout is that of ``docs/internals/exec-protocol.md`` (section "Frames"); ``firmware/guest/init/frame.h``
is the guest's half. All numbers are little-endian::

    u16 magic, u8 type, u8 run, u16 length, u16 low half of CRC-32 of these six bytes,
    payload, u32 CRC-32 of the payload
"""

from __future__ import annotations

import struct
from zlib import crc32

VERSION = 2
MAGIC = 0x9DF6
#: Bytes of payload in one frame, at most.
PAYLOAD_MAX = 16384
#: Bytes of a whole request (PART and RUN frames together), at most.
REQUEST_MAX = 65536

HOST_HELLO = 0x01
HOST_PART = 0x02
HOST_RUN = 0x03
HOST_STDIN = 0x04
HOST_EOF = 0x05
HOST_CREDIT = 0x06
HOST_RESIZE = 0x07
HOST_SIGNAL = 0x08
HOST_POWER = 0x09
HOST_PING = 0x0A
GUEST_HELLO = 0x81
GUEST_STDOUT = 0x82
GUEST_STDERR = 0x83
GUEST_CREDIT = 0x84
GUEST_EXIT = 0x85
GUEST_PONG = 0x86

_MARK = struct.pack("<H", MAGIC)
_HEAD = struct.Struct("<HBBH")
_HEADER = struct.Struct("<HBBHH")
_CHECK = struct.Struct("<I")
_HEADER_SIZE = 8
_OVERHEAD = 12
#: Bytes of frames with a wrong payload that may be looked at again, as what follows may begin inside them.
#: Frames with a right payload earn as many as they have.
_AGAIN_MAX = 16 * PAYLOAD_MAX


class Frame:
    """One frame: its *type*, the number of the *run* it belongs to (0: the link), its *payload*."""

    __slots__ = ("payload", "run", "type")

    def __init__(self, type: int, run: int, payload: bytes) -> None:
        self.type = type
        self.run = run
        self.payload = payload

    def __repr__(self) -> str:
        return f"Frame({self.type:#04x}, {self.run}, {self.payload!r})"


def encode(type: int, run: int, payload: bytes | memoryview = b"") -> bytes:
    """The bytes of a frame. *type* and *run* are 0-255, *payload* at most PAYLOAD_MAX bytes."""
    head = _HEAD.pack(MAGIC, type, run, len(payload))
    check = (crc32(head) & 0xFFFF).to_bytes(2, "little")
    return b"".join((head, check, payload, crc32(payload).to_bytes(4, "little")))


class Decoder:
    """Finds frames in a stream of bytes, whatever lies between them.

    It holds at most one unfinished frame (PAYLOAD_MAX + 12 bytes) between calls. Bytes that
    are no frame (a console's text, a frame with a wrong checksum) are counted in ``noise``.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._again = 0  # bytes looked at again, less those of right frames
        #: Bytes dropped so far because they belonged to no frame.
        self.noise = 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that *data* completes, in order."""
        held = self._data
        held += data
        frames: list[Frame] = []
        with memoryview(held) as view:
            used = self._scan(held, view, frames)
        del held[:used]
        return frames

    def _scan(self, held: bytearray, view: memoryview, frames: list[Frame]) -> int:
        """Put the frames of *held* into *frames*; how many bytes are done with."""
        at, size = 0, len(held)
        while True:
            found = held.find(_MARK, at)
            if found < 0:
                found = max(at, size - held.endswith(_MARK[:1]))
            self.noise += found - at
            at = found
            if size - at < _HEADER_SIZE:
                return at
            _, type, run, length, check = _HEADER.unpack_from(held, at)
            if length > PAYLOAD_MAX or crc32(view[at : at + 6]) & 0xFFFF != check:
                self.noise += 1
                at += 1
                continue
            end = at + _OVERHEAD + length
            if size < end:
                return at
            payload = bytes(view[at + _HEADER_SIZE : end - 4])
            if crc32(payload) != _CHECK.unpack_from(held, end - 4)[0]:
                # Bytes got lost, or it was none: another one may begin inside. Whoever makes up many of
                # these makes us look at no more bytes than the limit, and twice at each byte that was sent.
                if self._again + end - at <= _AGAIN_MAX:
                    self._again += end - at
                    step = 1
                else:
                    step = end - at
                self.noise += step
                at += step
                continue
            self._again = max(0, self._again - (end - at))
            frames.append(Frame(type, run, payload))
            at = end
