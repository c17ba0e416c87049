"""The log of a Linux kernel in guest memory, as printk's ring buffer keeps it."""

from __future__ import annotations

import struct

from pyvmm.memory.guest import GuestMemory


class PrintkLog:
    """Data blocks from *ring* on; for each of *count* a struct printk_info from *infos* on, and behind all
    of these a struct prb_desc.

    :param sequence: the number of the first record
    """

    def __init__(self, memory: GuestMemory, ring: int, infos: int, sequence: int, count: int) -> None:
        self.memory, self.ring, self.infos, self.count = memory, ring, infos, count
        self.sequence = sequence
        self.at = 0

    def add(self, text: bytes, facility: int = 0, level: int = 0) -> None:
        number = (1 << 32) - self.count + self.sequence
        # Two bytes of a level in front were overwritten, and the end of the text is there twice.
        block = number.to_bytes(8, "little") + text + text[-2:] + b"\n\0"
        self.memory.write(self.ring + self.at, block)
        self.at += -(-len(block) // 8) * 8
        info = struct.pack("<QQHBBI", self.sequence, 10**9, len(text), facility, 2 | level << 5, 0)
        index = self.sequence % self.count
        self.memory.write(self.infos + 88 * index, info)
        descriptor = struct.pack("<QQQ", number | 2 << 62, 0, 0)
        self.memory.write(self.infos + 88 * self.count + 24 * index, descriptor)
        self.sequence += 1
