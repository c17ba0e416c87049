"""The compressed ELF file inside a bzImage, unpacked on the host and cached for the next boot.

"payload_offset" in Documentation/arch/x86/boot.rst names the formats. The kernel's build
(scripts/Makefile.lib, ``size_append``) puts the unpacked size into the last four bytes;
gzip's own trailer is the same number.

The cache is ``payload`` in the user's cache directory (``host/cache.py``): a file for each payload, named by
its SHA-256, written under a temporary name and renamed, so that several processes may use it at once and none
sees half a file. It ends with a checksum; an entry whose checksum is wrong is made again. An entry that was
written whole gets a modification time of 0, which any later write changes; its
checksum is not verified again.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import struct
import time
import zlib

from pyvmm.host.cache import cache_directory, make_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes; more than any kernel has. A larger size field is taken for damage.
MAX_UNPACKED = 1 << 30
#: Number of cached kernels; the least recently used is removed first.
MAX_ENTRIES = 8

_LZ4_MAGIC = 0x184C2102
_LZ4_BLOCK = 8 << 20
_LZMA_MEMORY = 256 << 20
#: After the ELF file: magic, CRC-32 of the file, its size.
_TRAILER = struct.Struct("<8sIQ")
_TRAILER_MAGIC = b"PYVMMELF"
_STALE_SECONDS = 3600
#: How old an entry's access time may be before it is updated: on an overlay file system that copies the file.
_NOTE_SECONDS = 3600
#: The modification time, in nanoseconds, of an entry that nobody has written to since it was made.
_SEALED = 0


class PayloadError(Exception):
    """The payload cannot be unpacked here; the kernel's own decompressor may still do it."""


def unpack_cached(
    payload: memoryview,
    directory: str | None = None,
    unpack: Callable[[memoryview], bytes] | None = None,
) -> memoryview:
    """The kernel in *payload*, from the cache in *directory*, or unpacked and stored there.

    *directory* is by default the user's cache; a cache that cannot be written is not used. *unpack* is for a
    payload whose format ``decompress`` does not recognize. Raises PayloadError.
    """
    if unpack is None:
        if len(payload) < 8 or _decompressor(payload) is None:
            raise PayloadError("the payload is in no known compression format")
        unpack = decompress
    if directory is None:
        base = cache_directory()
        directory = f"{base}/payload" if base else None
    path = f"{directory}/{hashlib.sha256(payload).hexdigest()}.elf" if directory else ""
    if path:
        found = _read(path)
        if found is not None:
            return found
    data = unpack(payload)
    if path:
        try:
            _write(path, data)
        except OSError:
            pass  # with a full or read-only disk the next boot unpacks again
    return memoryview(data)


def decompress(payload: memoryview) -> bytes:
    """The bytes compressed in *payload*, at most 1 GiB. Raises PayloadError."""
    unpack = _decompressor(payload)
    if unpack is None:
        raise PayloadError("the payload is in no known compression format")
    size = int.from_bytes(payload[-4:], "little")
    if not 0 < size <= MAX_UNPACKED:
        raise PayloadError(f"the payload claims to unpack to {size} bytes")
    try:
        data = unpack(payload, size)
    except PayloadError:
        raise
    except Exception as error:  # each library raises its own errors
        raise PayloadError(f"the payload does not unpack: {error}") from error
    if len(data) != size:
        raise PayloadError(f"the payload unpacks to {len(data)} bytes instead of {size}")
    return data


def _decompressor(payload: memoryview) -> Callable[[memoryview, int], bytes] | None:
    return _FORMATS.get(bytes(payload[:2]))


def _gzip(payload: memoryview, size: int) -> bytes:
    return zlib.decompressobj(31).decompress(payload, size + 1)


def _bzip2(payload: memoryview, size: int) -> bytes:
    import bz2

    return bz2.BZ2Decompressor().decompress(payload, size + 1)


def _xz(payload: memoryview, size: int) -> bytes:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY).decompress(payload, size + 1)


def _lzma(payload: memoryview, size: int) -> bytes:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY).decompress(payload, size + 1)


def _zstd(payload: memoryview, size: int) -> bytes:
    import zstandard

    with zstandard.ZstdDecompressor().stream_reader(payload) as reader:
        return reader.read(size + 1)


def _lz4(payload: memoryview, size: int) -> bytes:
    """The legacy frame: its magic, then blocks, each with its compressed size, 8 MiB unpacked."""
    import lz4.block

    if int.from_bytes(payload[:4], "little") != _LZ4_MAGIC:
        raise PayloadError("the payload is not LZ4 in its legacy framing")
    blocks = []
    total = 0
    at = 4
    while at < len(payload) - 4:
        length = int.from_bytes(payload[at : at + 4], "little")
        at += 4
        if length == _LZ4_MAGIC:
            continue
        if length > len(payload) - 4 - at:
            raise PayloadError("an LZ4 block reaches beyond the payload")
        block: bytes = lz4.block.decompress(payload[at : at + length], uncompressed_size=_LZ4_BLOCK)
        at += length
        total += len(block)
        if total > size:
            raise PayloadError(f"the payload unpacks to more than {size} bytes")
        blocks.append(block)
    return b"".join(blocks)


_FORMATS: dict[bytes, Callable[[memoryview, int], bytes]] = {
    b"\x1f\x8b": _gzip,
    b"\x1f\x9e": _gzip,
    b"BZ": _bzip2,
    b"\x5d\x00": _lzma,
    b"\xfd7": _xz,
    b"\x02\x21": _lz4,
    b"\x28\xb5": _zstd,
}


def _read(path: str) -> memoryview | None:
    """The entry at *path* if it is valid; updates its access time."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size <= _TRAILER.size:
            return None
        if status.st_uid not in (0, os.geteuid()):
            return None
        view = memoryview(mmap.mmap(fd, status.st_size, mmap.MAP_PRIVATE, mmap.PROT_READ))
        magic, crc, size = _TRAILER.unpack_from(view, len(view) - _TRAILER.size)
        data = view[: -_TRAILER.size]
        if magic != _TRAILER_MAGIC or size != len(data):
            return None
        if status.st_mtime_ns != _SEALED and zlib.crc32(data) != crc:
            return None
        if time.time() - status.st_atime > _NOTE_SECONDS:
            try:
                os.utime(fd, ns=(time.time_ns(), status.st_mtime_ns))
            except OSError:
                pass  # of another user, or read-only: it is valid nevertheless
        return data
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def _write(path: str, data: bytes) -> None:
    """Write an entry into the cache: under a temporary name, then renamed. Raises OSError."""
    directory = os.path.dirname(path)
    make_directory(directory)
    _prune(directory)
    aside = f"{path}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb", buffering=0) as file:
            _write_all(file.fileno(), data)
            _write_all(file.fileno(), _TRAILER.pack(_TRAILER_MAGIC, zlib.crc32(data), len(data)))
            os.fsync(file.fileno())
            os.utime(file.fileno(), ns=(time.time_ns(), _SEALED))
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _prune(directory: str) -> None:
    """Make room for one entry, and remove temporary files of killed processes."""
    entries = []
    with os.scandir(directory) as found:
        for entry in found:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # another process has removed it
            if entry.name.endswith(".elf"):
                entries.append((status.st_atime, entry.path))
            elif entry.name.endswith(".tmp") and status.st_mtime < time.time() - _STALE_SECONDS:
                _remove(entry.path)
    entries.sort()
    for _, path in entries[: max(0, len(entries) - MAX_ENTRIES + 1)]:
        _remove(path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
