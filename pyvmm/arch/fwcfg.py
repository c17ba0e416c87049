"""What fw_cfg tells a guest: its CPUs and memory, and what the machine was started with.

After QEMU's docs/specs/fw_cfg.rst; ``etc/e820`` has the entries of QEMU's hw/i386/e820_memory_layout.h. What
this machine does not have (ACPI and SMBIOS tables, a boot order, option ROMs) has no item.
"""

from __future__ import annotations

import os
import stat
import struct

from pyvmm.boot.cmdline import encoded, one_line
from pyvmm.devices import fwcfg
from pyvmm.memory.errors import GuestMemoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyvmm.config import Config
    from pyvmm.memory.guest import GuestMemory

#: Bytes of a file's name in the directory, with its terminating zero.
_NAME = 56
#: Bytes read at a time.
_BLOCK = 1 << 20


class GuestItems:
    """The items of a machine, and its memory; an ``ItemSource`` of the device.

    :param cmdline: the kernel's command line as it was given to the guest, or the user's for firmware
    :param files: contents of files of the directory, by name, which has at most 55 bytes
    """

    def __init__(
        self, config: Config, memory: GuestMemory, cmdline: str, files: Mapping[str, bytes] | None = None
    ) -> None:
        self._memory = memory
        initrd, kernel = config.initrd, [config.kernel] if config.kernel is not None else []
        ram = sum(end - base for base, end in memory.ram_spans())
        text = encoded(one_line(cmdline)) + b"\0" if cmdline else b""
        self._items: dict[int, bytes] = {
            fwcfg.SIGNATURE: b"QEMU",
            fwcfg.ID: _u32(fwcfg.ID_TRADITIONAL | fwcfg.ID_DMA),
            fwcfg.RAM_SIZE: ram.to_bytes(8, "little"),
            fwcfg.NOGRAPHIC: _u16(1),
            fwcfg.NB_CPUS: _u16(config.cpus),
            fwcfg.MAX_CPUS: _u16(config.cpus),
            fwcfg.CMDLINE_SIZE: _u32(len(text)),
            fwcfg.CMDLINE_DATA: text,
        }
        # Read again when a guest asks, which few do: a copy of each file would stay in memory.
        self._files: dict[int, tuple[int, Sequence[str]]] = {
            fwcfg.KERNEL_SIZE: (fwcfg.KERNEL_DATA, kernel),
            fwcfg.KERNEL_DATA: (fwcfg.KERNEL_DATA, kernel),
            fwcfg.INITRD_SIZE: (fwcfg.INITRD_DATA, initrd),
            fwcfg.INITRD_DATA: (fwcfg.INITRD_DATA, initrd),
        }
        directory = [len(files or {}).to_bytes(4, "big")]
        for key, (name, content) in enumerate((files or {}).items(), fwcfg.FILE_FIRST):
            directory.append(struct.pack(f">IHH{_NAME}s", len(content), key, 0, os.fsencode(name)))
            self._items[key] = content
        self._items[fwcfg.FILE_DIR] = b"".join(directory)

    def item(self, key: int) -> bytes:
        """The item with *key*, 0 to 0xbfff; empty where there is none."""
        if key in self._files and key not in self._items:
            data_key, paths = self._files[key]
            if data_key not in self._items:
                self._items[data_key] = _contents(paths)
            if key != data_key:
                self._items[key] = _u32(min(len(self._items[data_key]), 0xFFFF_FFFF))
        return self._items.get(key, b"")

    def load(self, address: int, size: int) -> bytes | None:
        """*size* bytes of guest memory at guest-physical *address*; None for what is no memory."""
        try:
            return self._memory.read(address, size)
        except GuestMemoryError:
            return None

    def store(self, address: int, data: bytes | memoryview) -> bool:
        """Write *data* to guest memory at guest-physical *address*; False for what is no RAM."""
        try:
            self._memory.write(address, data)
        except GuestMemoryError:
            return False
        return True


def e820_file(entries: Sequence[tuple[int, int, int]]) -> bytes:
    """The file ``etc/e820`` of *entries* ``(base, size, type)``."""
    return b"".join(struct.pack("<QQI", *entry) for entry in entries)


def _contents(paths: Sequence[str]) -> bytes:
    """The bytes of regular files, each at a multiple of 4; empty when one of them is not there."""
    whole = bytearray()
    for path in paths:
        whole += bytes(-len(whole) % 4)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return b""
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return b""
            left = status.st_size
            while left > 0 and (block := os.read(fd, min(left, _BLOCK))):
                whole += block
                left -= len(block)
        except OSError:
            return b""
        finally:
            os.close(fd)
    return bytes(whole)


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")
