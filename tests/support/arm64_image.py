"""An arm64 kernel image made by hand: its header, and instructions that do nothing."""

from __future__ import annotations

import struct


def image(size: int = 0x30000, text_offset: int = 0, flags: int = 0xA, body: int = 0x4000) -> bytes:
    head = struct.pack("<IIQQQ24x4sI", 0x91005A4D, 0x14000000, text_offset, size, flags, b"ARM\x64", 64)
    return head + b"\x1f\x20\x03\xd5" * (body // 4)
