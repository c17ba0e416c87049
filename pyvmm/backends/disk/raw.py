"""A disk whose image is its sectors, one after the other: a file or a block device."""

from __future__ import annotations

import errno
import os
from ctypes import byref, c_char_p, c_int, c_long, c_uint, get_errno

from pyvmm.backends.disk.base import BUFFER, SECTOR, Disk, DiskError
from pyvmm.backends.disk.file import is_device, open_image
from pyvmm.backends.disk.format import HEAD, detect
from pyvmm.backends.disk.lock import lock
from pyvmm.host.libc import function, ioctl
from pyvmm.memory.vector import Vector
from pyvmm.memory.views import cut, rest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.backends.disk.aligned import AlignedFile
    from pyvmm.backends.disk.base import Views

# <linux/fs.h>
_BLKROGET = 0x125E
_BLKSSZGET = 0x1268
_BLKIOOPT = 0x1279
_BLKPBSZGET = 0x127B
# <linux/falloc.h>
_KEEP_SIZE = 1
_PUNCH_HOLE = 2
_ZERO_RANGE = 16

# <linux/magic.h>
_TMPFS_MAGIC = 0x01021994

_PAGE = 4096

_fallocate, _fstatfs = function("fallocate"), function("fstatfs")
# ssize_t preadv2(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags), and pwritev2.
_preadv2, _pwritev2 = function("preadv2"), function("pwritev2")
_preadv2.argtypes = _pwritev2.argtypes = (c_int, c_char_p, c_int, c_long, c_int)  # type: ignore[attr-defined]
_preadv2.restype = _pwritev2.restype = c_long  # type: ignore[attr-defined]


class RawDisk(Disk):
    """The file or block device at *path*.

    :param direct: past the host's page cache (O_DIRECT)
    :param block_size: bytes of the guest's blocks, a power of two from 512; None: those of the block device,
        512 for a file. What the host's medium needs beyond that is done here
    :param guarded: the format was guessed from its contents, so a guest must not make it look like
        another one: the next program that opens it would follow the guest's header to other files

    Raises DiskError when it cannot be opened as asked, is no disk, or is in use. All methods that touch the
    image raise OSError: the host's error, EIO where the file is shorter than the disk, EPERM for a write that
    *guarded* refuses.

    A read-only image may end within a block: what is missing of that reads as zeroes.
    """

    parallel = True

    def __init__(
        self,
        path: str,
        readonly: bool = False,
        direct: bool = False,
        guarded: bool = False,
        block_size: int | None = None,
    ) -> None:
        self.path = path
        self.readonly = readonly
        self.direct = direct
        self._guarded = guarded
        #: The error of a flush that failed: the kernel has dropped the data, so no later one succeeds.
        self._lost: OSError | None = None
        self._fd = open_image(path, readonly, direct)
        try:
            self._is_device = is_device(self._fd, path)
            lock(self._fd, path, not readonly)
            self._read_block_sizes(block_size)
            self._aligned: AlignedFile | None = None
            if direct:
                from pyvmm.backends.disk.aligned import AlignedFile

                self._aligned = AlignedFile(self._fd, self._medium_block)
            self.size = self._measure()
            self.largest_file = 0 if readonly else self._end
            self.in_memory = not self._is_device and _is_on_tmpfs(self._fd)
            # RWF_NOWAIT, unless the file system has no such thing.
            self._now = 0 if direct or not _has_nowait(self._fd) else os.RWF_NOWAIT
            self.nonblocking_reads = not direct and (self.in_memory or self._now != 0)
        except BaseException:
            self.close()
            raise

    def read(self, views: Views, offset: int, size: int) -> None:
        """Fill *views*."""
        try:
            done = _read(self._fd, views, offset, 0)
        except OSError as error:
            self._misaligned(error).read(list(views), offset, size, self._end)
            return
        while done < size:
            if offset + done >= self._end:
                for view in rest(list(views), done):
                    view[:] = bytes(len(view))
                return
            more = os.preadv(self._fd, rest(list(views), done), offset + done)
            if not more:
                raise OSError(errno.EIO, "the image ends before the disk does")
            done += more

    def read_now(self, views: Views, offset: int, size: int) -> bool:
        """Fill *views* from the page cache; by an ordinary read where the kernel has no RWF_NOWAIT for it."""
        if self.direct:
            return False
        if self._now:
            try:
                return _read(self._fd, views, offset, self._now) == size
            except BlockingIOError:
                return False
        self.read(views, offset, size)
        return True

    def write(self, views: Views, offset: int, size: int, durable: bool) -> None:
        """Write *views*."""
        if offset < HEAD and self._guarded:
            views = self._guard(list(views), offset)
        flags = os.RWF_DSYNC if durable else 0
        aligned = self._aligned
        if aligned is not None:
            aligned.begin_write(offset, size)
        try:
            done = _write(self._fd, views, offset, flags)
            while done < size:
                done += os.pwritev(self._fd, rest(list(views), done), offset + done, flags)
        except OSError as error:
            self._misaligned(error).write(list(views), offset, size, flags)
        finally:
            if aligned is not None:
                aligned.end_write(offset, size)

    def flush(self) -> None:
        """fdatasync. After one that failed, the kernel has dropped what it could not write: all fail."""
        if self._lost is not None:
            raise self._lost
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            if not self.direct:
                self._lost = error
            raise

    def discard(self, offset: int, size: int) -> None:
        """Punch a hole into the file, or discard the device's sectors; parts of its blocks are kept."""
        if self._is_device:
            unit = self._medium_block
            last = (offset + size) // unit * unit
            offset = -(-offset // unit) * unit
            size = last - offset
        if size > 0:
            self._allocate(_PUNCH_HOLE | _KEEP_SIZE, offset, size)

    def write_zeroes(self, offset: int, size: int, unmap: bool, durable: bool) -> None:
        """Zero by fallocate(2), or by writing."""
        for mode in (_PUNCH_HOLE | _KEEP_SIZE, _ZERO_RANGE | _KEEP_SIZE)[0 if unmap else 1 :]:
            try:
                self._allocate(mode, offset, size)
            except OSError as error:
                # EINVAL: parts of a block device's blocks.
                if error.errno not in (errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL):
                    raise
            else:
                break
        else:
            self._write_zeroes(offset, size)
        if durable:
            self.flush()

    def refresh(self) -> bool:
        """Read the image's size again. Raises DiskError when it is no whole number of blocks."""
        old, self.size = self.size, self._measure()
        return old != self.size

    def left(self) -> tuple[bytes, int]:
        """Whether a flush has failed."""
        return b"" if self._lost is None else str(self._lost.errno).encode(), -1

    def give(self, left: bytes, fd: int) -> None:
        """Whether a flush of the process before has failed."""
        if left:
            number = int(left)
            self._lost = OSError(number, os.strerror(number))

    def describe(self) -> str:
        """The path, as ``raw PATH``."""
        return f"raw {self.path}"

    def close(self) -> None:
        """Close the image; the lock on it ends."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _read_block_sizes(self, block_size: int | None) -> None:
        """Set the block sizes that the guest sees, and ``_medium_block``: what the host's medium has.

        Direct I/O takes multiples of that.
        """
        if not self._is_device:
            self._medium_block = _direct_block_size(self._fd) if self.direct else SECTOR
            self.block_size = block_size or SECTOR
        else:
            number = c_int()
            if not self.readonly and not ioctl(self._fd, _BLKROGET, byref(number)) and number.value:
                raise DiskError(f"disk {self.path} is a read-only device; give it with ro")
            self._medium_block = _block_ioctl(self._fd, _BLKSSZGET) or SECTOR
            self.block_size = block_size or self._medium_block
            self.physical_block_size = max(_block_ioctl(self._fd, _BLKPBSZGET), self._medium_block)
            self.optimal_size = _block_ioctl(self._fd, _BLKIOOPT)
        self.physical_block_size = max(self.physical_block_size, self.block_size)

    def _measure(self) -> int:
        """The disk's size; sets ``_end``, the image's."""
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if not size:
            raise DiskError(
                f"disk {self.path} is empty; make it as large as the disk is to be (truncate -s 1G)"
            )
        block = max(self.block_size, self._medium_block if self.direct else SECTOR)
        whole = -(-size // block) * block
        if size != whole and not self.readonly:
            if self._is_device:
                remedy = f"give block-size={SECTOR}, or ro"
            else:
                remedy = f"is it a disk image? Then make it larger: truncate -s {whole}; or give ro"
            raise DiskError(f"disk {self.path} has {size} bytes, which is no multiple of {block}; {remedy}")
        #: Where the image ends; the disk's last block may go on from there.
        self._end = size
        return whole

    def _misaligned(self, error: OSError) -> AlignedFile:
        """What transfers where direct I/O refused the request as misaligned; else raise *error*."""
        if error.errno != errno.EINVAL or self._aligned is None:
            raise error
        return self._aligned

    def _guard(self, views: list[memoryview], offset: int) -> list[memoryview]:
        """*views* with a copy of their part of the first HEAD bytes, checked to be no format's header."""
        head = bytearray(HEAD)
        if offset:
            os.preadv(self._fd, [memoryview(head)[:offset]], 0)
        at = offset
        for view in cut(views, HEAD - offset):
            head[at : at + len(view)] = view
            at += len(view)
        kind = detect(bytes(head))
        if kind != "raw":
            raise OSError(
                errno.EPERM, f"it would then look like {kind}; to allow that, give the disk with format=raw"
            )
        return [memoryview(head)[offset:at], *rest(views, at - offset)]

    def _allocate(self, mode: int, offset: int, size: int) -> None:
        if self._aligned is not None:
            self._aligned.begin_write(offset, size)
        try:
            while _fallocate(self._fd, mode, c_long(offset), c_long(size)) < 0:
                number = get_errno()
                if number != errno.EINTR:
                    raise OSError(number, os.strerror(number))
        finally:
            if self._aligned is not None:
                self._aligned.end_write(offset, size)

    def _write_zeroes(self, offset: int, size: int) -> None:
        import mmap

        with mmap.mmap(-1, min(size, BUFFER)) as zeroes:
            done = 0
            while done < size:
                with memoryview(zeroes)[: size - done] as part:
                    self.write([part], offset + done, len(part), False)
                    done += len(part)


def _read(fd: int, views: Views, offset: int, flags: int) -> int:
    if type(views) is Vector:
        return _vectored(_preadv2, fd, views, offset, flags)
    return os.preadv(fd, views, offset, flags)  # type: ignore[arg-type]


def _write(fd: int, views: Views, offset: int, flags: int) -> int:
    if type(views) is Vector:
        return _vectored(_pwritev2, fd, views, offset, flags)
    return os.pwritev(fd, views, offset, flags)  # type: ignore[arg-type]


def _vectored(call: Callable[..., int], fd: int, vector: Vector, offset: int, flags: int) -> int:
    """preadv2 or pwritev2, which go on after a signal as Python's own do (PEP 475)."""
    while (done := call(fd, vector.iovecs, len(vector), offset, flags)) < 0:
        if get_errno() != errno.EINTR:
            raise OSError(get_errno(), os.strerror(get_errno()))
    return done


def _is_on_tmpfs(fd: int) -> bool:
    # struct statfs begins with long f_type, and has 120 bytes (statfs(2)).
    found = (c_long * 16)()
    return _fstatfs(fd, found) == 0 and found[0] == _TMPFS_MAGIC


def _has_nowait(fd: int) -> bool:
    try:
        os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _block_ioctl(fd: int, request: int) -> int:
    number = c_uint()
    return 0 if ioctl(fd, request, byref(number)) else number.value


def _direct_block_size(fd: int) -> int:
    """The smallest transfer the file system takes past the page cache, by trying."""
    import mmap

    with mmap.mmap(-1, _PAGE) as page, memoryview(page) as whole, whole[:SECTOR] as sector:
        try:
            os.preadv(fd, [sector], 0)
        except OSError:
            return _PAGE
    return SECTOR
