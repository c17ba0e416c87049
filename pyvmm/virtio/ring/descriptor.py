"""A descriptor of the split ring: its layout and flags. Section 2.7.5."""

from __future__ import annotations

from struct import Struct

# Flags
NEXT = 1
WRITE = 2
INDIRECT = 4

#: Bytes of ``struct virtq_desc``: le64 addr; le32 len; le16 flags; le16 next. A shift by 4 in ``Queue``.
SIZE = 16

#: (address, length, flags, next). In native order, which both hosts have, each field is one load.
unpack = Struct("QIHH").unpack_from
