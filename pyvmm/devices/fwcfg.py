"""QEMU's firmware configuration device (fw_cfg): a guest selects an item by its key, and reads it.

After QEMU's docs/specs/fw_cfg.rst. Two sets of registers: ports as on a PC, memory as on the ``virt`` board.
Items are read-only: what is written to the data register is ignored, and a DMA transfer that writes fails.
They are made when the guest selects one for the first time; most guests never do.
"""

from __future__ import annotations

from _thread import allocate_lock

from pyvmm.board.device import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class ItemSource(Protocol):
        """The items, and guest memory for DMA."""

        def item(self, key: int) -> bytes | memoryview:
            """The item with *key*, 0 to 0xbfff; empty where there is none."""

        def load(self, address: int, size: int) -> bytes | None:
            """*size* bytes of guest memory at guest-physical *address*; None for what is no memory."""

        def store(self, address: int, data: bytes | memoryview) -> bool:
            """Write *data* to guest memory at guest-physical *address*; False for what is no RAM."""


# Keys of items (the specification's section "Firmware Configuration Items").
SIGNATURE = 0x0000
ID = 0x0001
RAM_SIZE = 0x0003
NOGRAPHIC = 0x0004
NB_CPUS = 0x0005
KERNEL_SIZE = 0x0008
INITRD_SIZE = 0x000B
MAX_CPUS = 0x000F
KERNEL_DATA = 0x0011
INITRD_DATA = 0x0012
CMDLINE_SIZE = 0x0014
CMDLINE_DATA = 0x0015
FILE_DIR = 0x0019
#: Keys of files begin here.
FILE_FIRST = 0x0020
#: In a selector: the item is to be written, which no item is.
WRITE_CHANNEL = 0x4000

# Bits of the item ID.
ID_TRADITIONAL = 1 << 0
ID_DMA = 1 << 1

# Bits of a DMA descriptor's control field; its upper half is a selector.
DMA_ERROR = 1 << 0
DMA_READ = 1 << 1
DMA_SKIP = 1 << 2
DMA_SELECT = 1 << 3
DMA_WRITE = 1 << 4
#: Bytes of a descriptor: control and length of four, an address of eight, big-endian.
DMA_DESCRIPTOR = 16
#: What the DMA register reads as.
DMA_SIGNATURE = b"QEMU CFG"

#: Bytes copied at a time: other threads go on between two of them.
CHUNK = 256 << 10
#: Zeroes that a DMA transfer may ask for behind an item's end; a longer one fails.
DMA_BEHIND_END = 1 << 20

#: Bytes of the ports, and of the registers in memory.
PORTS_SIZE = 12
REGISTERS_SIZE = 24


class FwCfg(Device):
    """The device without its registers.

    :param source: makes what has the items, when the guest selects one for the first time
    """

    name = "fw_cfg"

    def __init__(self, source: Callable[[], ItemSource]) -> None:
        self._make_source = source
        self._source: ItemSource | None = None
        self._lock = allocate_lock()
        self._key = 0
        self._item: bytes | memoryview | None = None  # made at the first read of it
        self._offset = 0
        self._dma_high = 0

    def reset(self) -> None:
        """The signature is selected."""
        self._select(SIGNATURE)
        self._dma_high = 0

    def save(self) -> dict[str, object]:
        """What is selected, and how far it was read."""
        with self._lock:
            return {"version": 1, "registers": [self._key, self._offset, self._dma_high]}

    def load(self, state: dict[str, object]) -> None:
        """Restore what ``save`` returned. Raises KeyError, TypeError or ValueError for anything else."""
        registers = state["registers"]
        if not isinstance(registers, list) or not all(isinstance(value, int) for value in registers):
            raise TypeError("the saved state of fw_cfg has fields of the wrong type")
        key, offset, high = registers
        if offset < 0:
            raise ValueError(f"the saved state of fw_cfg has an offset of {offset}")
        with self._lock:
            self._key, self._item = key & 0xFFFF & ~WRITE_CHANNEL, None
            self._offset, self._dma_high = offset, high & 0xFFFF_FFFF

    def _select(self, key: int) -> None:
        with self._lock:
            self._key, self._item, self._offset = key & ~WRITE_CHANNEL, None, 0

    def _take(self, size: int) -> tuple[bytes | memoryview, int]:
        """The selected item, and the offset from which *size* bytes of it are read or skipped now."""
        with self._lock:
            key, item = self._key, self._item
        if item is None:  # made without the lock: it may be read from a file
            item = self._opened().item(key)
        with self._lock:
            if self._key != key:  # another vCPU has selected another one
                return b"", 0
            self._item = item
            offset = self._offset
            self._offset = min(offset + size, len(item))
        return item, offset

    def _opened(self) -> ItemSource:
        if self._source is None:
            self._source = self._make_source()
        return self._source

    def _next(self, size: int) -> bytes:
        """The next *size* bytes of the item; zeroes behind its end."""
        item, offset = self._take(size)
        return bytes(item[offset : offset + size]).ljust(size, b"\0")

    def _transfer(self, address: int) -> None:
        """Carry out the DMA descriptor at guest-physical *address*; nothing where that is no memory."""
        self._dma_high = 0
        source = self._opened()
        descriptor = source.load(address, DMA_DESCRIPTOR)
        if descriptor is None:
            return
        control = int.from_bytes(descriptor[:4], "big")
        length = int.from_bytes(descriptor[4:8], "big")
        target = int.from_bytes(descriptor[8:], "big")
        if control & DMA_SELECT:
            self._select(control >> 16)
        done = True
        if control & DMA_READ:
            done = self._copy(source, target, length)
        elif control & DMA_WRITE:
            done = False
        elif control & DMA_SKIP:
            self._take(length)
        source.store(address, (0 if done else DMA_ERROR).to_bytes(4, "big"))

    def _copy(self, source: ItemSource, target: int, length: int) -> bool:
        """The next *length* bytes of the item to guest-physical *target*; whether all could be written."""
        item, offset = self._take(length)
        end = min(offset + length, len(item))
        if length - (end - offset) > DMA_BEHIND_END:
            return False
        data = memoryview(item)
        for at in range(offset, end, CHUNK):
            if not source.store(target + at - offset, data[at : min(at + CHUNK, end)]):
                return False
        behind = length - (end - offset)
        return not behind or source.store(target + end - offset, bytes(behind))


class FwCfgPorts(FwCfg):
    """The registers as I/O ports: selector (a word), data (its second byte), DMA (big-endian)."""

    def read(self, offset: int, size: int) -> int:
        """The data port's bytes are the item's; the DMA register is its signature, the rest ones."""
        data = bytearray()
        for at in range(offset, offset + size):
            data += self._next(1) if at == 1 else DMA_SIGNATURE[at - 4 : at - 3] if at >= 4 else b"\xff"
        return int.from_bytes(data, "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Select an item by the lowest word, or carry out a DMA transfer by the second double word."""
        if offset == 0 and size >= 2:
            self._select(value & 0xFFFF)
        elif size == 4 and offset in (4, 8):
            half = int.from_bytes(value.to_bytes(4, "little"), "big")
            if offset == 4:
                self._dma_high = half
            else:
                self._transfer(self._dma_high << 32 | half)


class FwCfgRegisters(FwCfg):
    """The registers in memory: data (8 bytes), selector (a word), DMA (8 bytes), all big-endian."""

    def read(self, offset: int, size: int) -> int:
        """The data register's bytes are the item's, in any width; the DMA register is its signature."""
        if offset < 8:
            mine = min(size, 8 - offset)
            data = self._next(mine) + b"\xff" * (size - mine)
        elif offset >= 16:
            data = DMA_SIGNATURE[offset - 16 : offset - 16 + size]
        else:
            data = b"\xff" * size
        return int.from_bytes(data, "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Select an item, or carry out a DMA transfer by all of its register or by the second half."""
        data = value.to_bytes(size, "little")
        if offset == 8 and size >= 2:
            self._select(int.from_bytes(data[:2], "big"))
        elif (offset, size) == (16, 4):
            self._dma_high = int.from_bytes(data, "big")
        elif (offset, size) == (20, 4):
            self._transfer(self._dma_high << 32 | int.from_bytes(data, "big"))
        elif (offset, size) == (16, 8):
            self._transfer(int.from_bytes(data, "big"))
