"""A disk image by its path: created, its format known, opened by the class for that format."""

from __future__ import annotations

import os

from pyvmm.backends.disk.base import SECTOR, Disk, DiskError
from pyvmm.backends.disk.chain import ImageChain
from pyvmm.backends.disk.format import FORMATS, named_format, partition_table_block
from pyvmm.backends.disk.raw import RawDisk
from pyvmm.host.notice import notice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: ``auto``, then formats by name.
CHOICES = ("auto", *FORMATS)


def open_disk(
    path: str,
    *,
    readonly: bool = False,
    format: str = "auto",
    direct: bool = False,
    snapshot: bool = False,
    create: int | None = None,
    block_size: int | None = None,
    backing: Sequence[str] = (),
) -> Disk:
    """The image at *path*, to be closed by the caller.

    :param format: one of CHOICES; ``auto`` goes by the end of the name, and refuses an image that looks like
        another format
    :param direct: past the host's page cache
    :param snapshot: what is written is discarded at the end; the image is only read
    :param create: make a raw image of this many bytes, to whole blocks, when there is nothing at *path*
    :param block_size: bytes of the guest's blocks, a power of two from 512; None: those of a block device,
        else 512
    :param backing: the images below, in order: no image is read because another one names it

    Raises DiskError with a sentence that names *path* and what to do; BackendError when qemu-nbd cannot be
    connected to.
    """
    if format not in CHOICES:
        raise DiskError(f"disk {path}: format={format} is not offered; choose {', '.join(CHOICES)}")
    if create is not None:
        block = block_size or SECTOR
        _create(path, -(-create // block) * block, format)
    if format == "raw" and not snapshot and not backing:
        return RawDisk(path, readonly, direct, block_size=block_size)
    chain = ImageChain(path, format, backing)
    try:
        head = chain.top.head
        if chain.top.format == "raw" and not snapshot:
            disk: Disk = RawDisk(path, readonly, direct, guarded=True, block_size=block_size)
        else:
            from pyvmm.backends.disk.qemu import QemuDisk

            disk = QemuDisk(chain, readonly, direct, snapshot, block_size)
    finally:
        chain.close()
    table = partition_table_block(head)
    if block_size is None and table not in (0, disk.block_size):
        notice(
            "disk blocks",
            f"disk {path} has a partition table for blocks of {table} bytes, and a guest that sees blocks of "
            f"{disk.block_size} does not find it; give the disk with block-size={table}",
        )
    return disk


def _create(path: str, size: int, format: str) -> None:
    wanted = named_format(path) if format == "auto" else format
    if wanted != "raw" and not os.path.lexists(path):
        raise DiskError(
            f"disk {path}: create makes raw images; give format=raw, a name that ends otherwise, or make it "
            "with qemu-img create"
        )
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise DiskError(f"disk {path} cannot be made: {error.strerror}; give another path") from None
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        os.unlink(path)
        raise DiskError(f"disk {path} cannot have {size} bytes: {error.strerror}") from None
    finally:
        os.close(fd)
