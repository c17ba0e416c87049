"""Host objects that guest memory is made of.

Sources: mmap(2), madvise(2), memfd_create(2), F_ADD_SEALS in fcntl(2), and
Documentation/admin-guide/mm/{transhuge,hugetlbpage}.rst of Linux.

Every object has a ``buffer`` (memoryview of bytes), its host virtual ``address`` and ``size``. A view of
``buffer`` keeps the mapping alive: after ``close`` the pages are unmapped when the last view is released.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import stat

from pyvmm.errors import ConfigError
from pyvmm.host.opened import open_file
from pyvmm.memory.errors import HostMemoryError, MemoryConfigError
from pyvmm.units import format_size

PAGE_SIZE = mmap.PAGESIZE
HUGE_PAGE_SIZE = 2 << 20
#: Physical addresses of x86-64 and arm64 (LPA) have at most 52 bits.
PHYSICAL_LIMIT = 1 << 52

MAP_NORESERVE = 0x4000  # asm-generic/mman-common.h; mmap of Python 3.11 lacks the name
F_ADD_SEALS = 1024 + 9  # linux/fcntl.h: F_LINUX_SPECIFIC_BASE + 9
F_SEAL_SEAL = 0x1
F_SEAL_SHRINK = 0x2
F_SEAL_GROW = 0x4


class HostMemory:
    """One mapping of the host's, at least a page. The base of the kinds below.

    It is left out of core dumps (MADV_DONTDUMP), which are written where others may read them.
    ``fd`` is the file behind it that another process can map, or -1. The memory begins at the first
    multiple of *align* bytes (a power of two) in the mapping.
    """

    __slots__ = ("_mapping", "_start", "address", "buffer", "fd", "size")

    #: Its name in messages.
    kind = "memory"
    #: Whether no holder of ``fd`` can change the size of the file.
    sealed = False
    #: What to tell the host's kernel so that pages cost nothing any more, and the size of such pages.
    _forget: tuple[int, int] | None = None

    def __init__(self, mapping: mmap.mmap, size: int, fd: int = -1, align: int = 1) -> None:
        whole = memoryview(mapping)
        start = address_of(whole)
        offset = -start % align
        self._mapping: mmap.mmap | None = mapping
        self._start = offset
        self.buffer = whole[offset : offset + size]
        #: Host virtual address of the first byte.
        self.address = start + offset
        #: Bytes.
        self.size = size
        self.fd = fd
        whole.release()
        mapping.madvise(mmap.MADV_DONTDUMP)

    def discard(self, offset: int, size: int) -> int:
        """Return the whole pages within *size* bytes at *offset* to the host; they read as zeroes then.

        Returns how many bytes that are: 0 for memory that cannot (a file opened privately or read-only), or
        whose file system cannot make holes. A range outside, or empty, gives 0 too.
        """
        if self._forget is None or self._mapping is None:
            return 0
        advice, page = self._forget
        first, last = -(-max(0, offset) // page) * page, min(self.size, offset + size) // page * page
        if first >= last:
            return 0
        try:
            self._mapping.madvise(advice, self._start + first, last - first)
        except OSError:
            return 0
        return last - first

    def close(self) -> None:
        """Release the mapping; may be called again. Existing views stay valid."""
        if self._mapping is None:
            return
        self.buffer.release()
        # Not mapping.close(): that raises while views exist. The last reference unmaps.
        self._mapping = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Anonymous(HostMemory):
    """Private memory; from 2 MiB on aligned to that, in huge pages where the host allows them.

    Nothing is reserved (MAP_NORESERVE): the size may exceed the host's RAM, and only
    pages that are touched cost anything. Raises HostMemoryError when the host refuses, and
    MemoryConfigError for a size that is not whole pages.
    """

    __slots__ = ()
    kind = "anonymous"
    _forget = mmap.MADV_DONTNEED, PAGE_SIZE

    def __init__(self, size: int) -> None:
        check_size(size)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        # A huge page would cost the clearing of 2 MiB for less memory.
        align = HUGE_PAGE_SIZE if size >= HUGE_PAGE_SIZE else PAGE_SIZE
        try:
            mapping = mmap.mmap(-1, size + align - PAGE_SIZE, flags=flags)
        except OSError as error:
            raise HostMemoryError(
                f"the host refused {format_size(size)} of memory ({error.strerror}); ask for less, or allow "
                "overcommit with 'sysctl vm.overcommit_memory=0'"
            ) from None
        super().__init__(mapping, size, align=align)
        if align == PAGE_SIZE:
            return
        try:
            mapping.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # a kernel without transparent huge pages: slower, not wrong


class Memfd(HostMemory):
    """Shared memory behind a memfd, for whoever must map guest RAM too.

    Its size is sealed: no holder of ``fd`` can make accesses fault by truncating it. Raises HostMemoryError
    when the host refuses, and MemoryConfigError for a size that is not whole pages.
    """

    __slots__ = ()
    kind = "memfd"
    sealed = True
    _forget = mmap.MADV_REMOVE, PAGE_SIZE

    def __init__(self, size: int) -> None:
        check_size(size)
        fd = -1
        try:
            fd = os.memfd_create("pyvmm-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, size)
            _seal_size(fd)
            mapping = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | MAP_NORESERVE)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise HostMemoryError(
                f"the host refused a memfd of {format_size(size)} ({error.strerror}); ask for less memory"
            ) from None
        super().__init__(mapping, size, fd)


class Hugetlb(HostMemory):
    """Shared memory in 2 MiB pages of the host's hugetlb pool, all reserved at once; its size is sealed.

    Raises MemoryConfigError unless *size* is a multiple of 2 MiB, and HostMemoryError when the pool has too
    few.
    """

    __slots__ = ()
    kind = "hugetlb"
    sealed = True
    _forget = mmap.MADV_REMOVE, HUGE_PAGE_SIZE

    def __init__(self, size: int) -> None:
        check_size(size, HUGE_PAGE_SIZE)
        fd = -1
        try:
            flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | os.MFD_HUGETLB | os.MFD_HUGE_2MB
            fd = os.memfd_create("pyvmm-huge", flags)
            os.ftruncate(fd, size)
            _seal_size(fd)
            mapping = mmap.mmap(fd, size, flags=mmap.MAP_SHARED)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise HostMemoryError(
                f"the host has no {size // HUGE_PAGE_SIZE} free huge pages of 2M ({error.strerror}); set "
                "them aside with 'sysctl vm.nr_hugepages=N', or use anonymous memory"
            ) from None
        super().__init__(mapping, size, fd)


class FileBacked(HostMemory):
    """A regular file as memory, whole pages of it from its start.

    By default writes reach the file and everybody else who maps it. With *private* they stay in this
    process; with *readonly* there are none, and the buffer refuses them. The size is the file's. A file
    truncated while mapped ends the process with SIGBUS: give a file nobody else shortens. Raises
    HostMemoryError, and MemoryConfigError for *readonly* with *private*.
    """

    __slots__ = ()
    kind = "file"
    _forget = mmap.MADV_REMOVE, PAGE_SIZE

    def __init__(self, path: str | os.PathLike[str], readonly: bool = False, private: bool = False) -> None:
        if readonly and private:
            raise MemoryConfigError(f"memory file {path}: readonly and private exclude each other; pick one")
        # O_NONBLOCK: opening a FIFO must not wait for its other end.
        access = os.O_RDONLY if readonly or private else os.O_RDWR
        fd = -1
        try:
            fd = open_file(os.fspath(path), access | os.O_CLOEXEC | os.O_NONBLOCK)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise HostMemoryError(f"memory file {path} is not a regular file; give one that is")
            size = status.st_size
            try:
                check_size(size)
            except ConfigError:
                raise HostMemoryError(
                    f"memory file {path} has {size} bytes; it must have a multiple of {PAGE_SIZE}, at least "
                    f"one page: enlarge it with truncate(1)"
                ) from None
            prot = mmap.PROT_READ if readonly else mmap.PROT_READ | mmap.PROT_WRITE
            flags = mmap.MAP_PRIVATE | MAP_NORESERVE if private else mmap.MAP_SHARED
            mapping = mmap.mmap(fd, size, flags=flags, prot=prot)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise HostMemoryError(f"memory file {path} cannot be mapped: {error.strerror}") from None
        except HostMemoryError:
            os.close(fd)
            raise
        if private:
            os.close(fd)  # another process would not see what is written here
            fd = -1
        super().__init__(mapping, size, fd)

    def discard(self, offset: int, size: int) -> int:
        """Make a hole in the file, if writes reach it; without, the file's old content would come back."""
        return 0 if self.fd < 0 or self.buffer.readonly else super().discard(offset, size)


def check_size(size: int, unit: int = PAGE_SIZE) -> None:
    """Raise MemoryConfigError unless *size* is a positive multiple of *unit* below 2**52 bytes."""
    if size <= 0 or size % unit or size > PHYSICAL_LIMIT:
        raise MemoryConfigError(
            f"memory size {size:#x} is not usable; it must be a multiple of {unit:#x} from {unit:#x} "
            f"to {PHYSICAL_LIMIT:#x} bytes"
        )


def _seal_size(fd: int) -> None:
    """Let nobody change the size of the memfd *fd* any more, nor add other seals. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class _PyBuffer(ctypes.Structure):
    """``Py_buffer`` of CPython's C API (Include/pybuffer.h)."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


def address_of(view: memoryview) -> int:
    """The host virtual address of *view*'s first byte, of a read-only one too.

    ``from_buffer`` of ctypes wants a writable buffer; the C API beneath it does not.
    """
    buffer = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0)
    address = int(buffer.buf)
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    return address
