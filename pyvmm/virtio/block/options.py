"""The options of ``--disk``."""

from __future__ import annotations

from functools import partial

from pyvmm.backends.disk.image import open_disk
from pyvmm.units import parse_size
from pyvmm.virtio.block.device import CACHES, MAX_QUEUES, Block

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.virtio.options import OptionReader

BLOCK_SIZES = ("auto", "512", "4096")


def from_options(reader: OptionReader) -> Block:
    """``disk=PATH,ro,serial=...``: see docs/devices/block.md. Raises ConfigError, DiskError."""
    cache = reader.choice("cache", CACHES, "writeback")
    queues = reader.number("queues", 1, 1, MAX_QUEUES)
    serial = reader.text("serial", "") or ""
    create = reader.text("create")
    block_size = reader.choice("block-size", BLOCK_SIZES, "auto")
    make = partial(
        open_disk,
        reader.need("path"),
        readonly=reader.flag("ro"),
        format=reader.text("format", "auto") or "auto",
        direct=reader.flag("direct"),
        snapshot=reader.flag("snapshot"),
        create=None if create is None else parse_size(create, "--disk create"),
        block_size=None if block_size == "auto" else int(block_size),
        backing=reader.texts("backing"),
    )
    disk = reader.open("image", make)
    try:
        return Block(disk, serial=serial, queues=queues or 1, cache=cache)
    except BaseException:
        disk.close_unless_kept()
        raise
