"""Compressed kernels, unpacked on the host and cached for the next boot.

The cache is ``payload`` in the user's cache directory (``host/cache.py``): a file for each payload, named by
its SHA-256, written under a temporary name and renamed, so that several processes may use it at once and none
sees half a file. It ends with a checksum; an entry whose checksum is wrong is made again. An entry that was
written whole gets a modification time of 0, which any later write changes; its
checksum is not verified again.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
import time
import zlib

from pyvmm.host.cache import cache_directory, make_directory

#: Number of cached kernels; the least recently used is removed first.
MAX_ENTRIES = 8
#: Bytes of all of them; the same ones go first.
MAX_BYTES = 1 << 30

#: After the kernel: magic, CRC-32 of the kernel, its size.
_TRAILER = struct.Struct("<8sIQ")
_TRAILER_MAGIC = b"PYVMMELF"
_STALE_SECONDS = 3600
#: How old an entry's access time may be before it is updated: on an overlay file system that copies the file.
_NOTE_SECONDS = 3600
#: The modification time, in nanoseconds, of an entry that nobody has written to since it was made.
_SEALED = 0


#: The kernels that were unpacked, by the checksum of their payload; None: they are not kept.
_kept: dict[str, memoryview] | None = None


class PayloadError(Exception):
    """The payload cannot be unpacked here; the kernel's own decompressor may still do it."""


def keep_unpacked() -> None:
    """Keep in memory what ``unpack_cached`` returns from now on.

    For a process that is about to lose files and processes (``host/sandbox.py``) and loads a kernel then.
    """
    global _kept
    _kept = {}


def unpack_cached(payload: memoryview, directory: str | None = None, format: str | None = None) -> memoryview:
    """The kernel in *payload*, from the cache in *directory*, or unpacked and stored there.

    It is unpacked in a process that can do nothing else (``host/confined.py``), by ``unpack.unpack_bzimage``,
    or by ``unpack.unpack`` when its *format* is given. *directory* is by default the user's cache; a cache
    that cannot be written is not used. Raises PayloadError.
    """
    import hashlib  # loads OpenSSL, which takes a tenth of the time of host/digest.py for a kernel

    if directory is None:
        base = cache_directory()
        directory = f"{base}/payload" if base else None
    checksum = hashlib.sha256(payload).hexdigest()
    data = None if _kept is None else _kept.get(checksum)
    if data is None:
        data = _cached(payload, f"{directory}/{checksum}.elf" if directory else "", format)
        if _kept is not None:
            _kept[checksum] = data
    return data


def _cached(payload: memoryview, path: str, format: str | None) -> memoryview:
    if path:
        found = _read(path)
        if found is not None:
            return found
    data = _unpack(payload, format)
    if path:
        try:
            _write(path, data)
        except OSError:
            pass  # with a full or read-only disk the next boot unpacks again
    return data


def _unpack(payload: memoryview, format: str | None) -> memoryview:
    from pyvmm.boot import unpack
    from pyvmm.host import confined

    kind = unpack.FORMATS.get(format or unpack.format_of(payload))
    if kind is None:
        raise PayloadError("the payload is in no known compression format")
    name, arguments = ("unpack_bzimage", []) if format is None else ("unpack", [format])
    libraries = [kind.library] if kind.library else []
    try:
        return confined.call(f"{unpack.__name__}:{name}", payload, unpack.MAX_UNPACKED, arguments, libraries)
    except confined.ConfinedError as error:
        raise PayloadError(str(error)) from None


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


def _write(path: str, data: memoryview) -> None:
    """Write an entry into the cache: under a temporary name, then renamed. Raises OSError."""
    from pyvmm.host.writing import write_all

    directory = os.path.dirname(path)
    make_directory(directory)
    _prune(directory, len(data))
    aside = f"{path}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb", buffering=0) as file:
            write_all(file.fileno(), data)
            write_all(file.fileno(), _TRAILER.pack(_TRAILER_MAGIC, zlib.crc32(data), len(data)))
            os.fsync(file.fileno())
            os.utime(file.fileno(), ns=(time.time_ns(), _SEALED))
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise


def _prune(directory: str, size: int) -> None:
    """Make room for an entry of *size* bytes, and remove temporary files of killed processes."""
    entries = []
    with os.scandir(directory) as found:
        for entry in found:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # another process has removed it
            if entry.name.endswith(".elf"):
                entries.append((status.st_atime, entry.path, status.st_size))
            elif entry.name.endswith(".tmp") and status.st_mtime < time.time() - _STALE_SECONDS:
                _remove(entry.path)
    entries.sort(reverse=True)
    total = size
    for number, (_, path, bytes_there) in enumerate(entries, 1):
        total += bytes_there
        if number >= MAX_ENTRIES or total > MAX_BYTES:
            _remove(path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
