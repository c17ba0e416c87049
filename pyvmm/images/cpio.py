"""cpio archives in the "newc" format, as Linux takes them for an initramfs.

Source: the kernel's ``Documentation/driver-api/early-userspace/buffer-format.rst``. The same
entries give the same bytes: modification times and owners are 0 and inodes are numbered in
the order given. Nothing is read from or made on the host's file system, so device nodes need
no privilege.
"""

from __future__ import annotations

import stat

from pyvmm.errors import ConfigError

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_FIELDS = 13
_HEADER_SIZE = 6 + 8 * _FIELDS


class CpioError(ConfigError):
    """An archive that cannot be written or read."""


class Entry:
    """One file of an archive.

    *path* is relative, without a leading slash; *mode* has the type bits of ``stat.h``; *data*
    is the content of a regular file or the target of a symbolic link; *device* is (major,
    minor) of a device node.
    """

    __slots__ = ("data", "device", "mode", "path")

    def __init__(self, path: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self.path = path
        self.mode = mode
        self.data = data
        self.device = device


def file(path: str, data: bytes, mode: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(path, stat.S_IFREG | mode, data)


def folder(path: str, mode: int = 0o755) -> Entry:
    """A directory."""
    return Entry(path, stat.S_IFDIR | mode)


def symlink(path: str, target: str) -> Entry:
    """A symbolic link to *target*."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """A character device node with the device numbers *major* and *minor*."""
    return Entry(path, stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: list[Entry]) -> bytes:
    """The archive of *entries* in the order given, missing parent directories put in before.

    A later entry takes the place of an earlier one with the same path. The length is a
    multiple of four, so that archives can be put one after the other. Raises CpioError for a
    path that is absolute, empty or has ``..`` in it, and for files of 4 GiB and more.
    """
    whole: dict[str, Entry] = {}
    for entry in entries:
        parts = entry.path.split("/")
        if "" in parts or "." in parts or ".." in parts or "\0" in entry.path:
            raise CpioError(
                f"{entry.path!r} cannot be a path in an initramfs; write it relative, without . and .."
            )
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            whole.setdefault(parent, folder(parent))
        if len(entry.data) >= 1 << 32:
            raise CpioError(f"{entry.path} is too large for a cpio archive, whose limit is 4 GiB")
        whole[entry.path] = entry
    pieces: list[bytes] = []
    for inode, entry in enumerate(whole.values(), 1):
        _append(pieces, inode, entry)
    _append(pieces, 0, Entry(_TRAILER, 0))
    return b"".join(pieces)


def read(data: bytes) -> list[Entry]:
    """The entries of the first archive in *data*. Raises CpioError for anything malformed."""
    entries: list[Entry] = []
    at = 0
    while True:
        header = data[at : at + _HEADER_SIZE]
        if len(header) < _HEADER_SIZE or header[:6] != _MAGIC:
            raise CpioError(f"no newc header at offset {at}; this is no uncompressed newc archive")
        try:
            fields = [int(header[6 + 8 * i : 14 + 8 * i], 16) for i in range(_FIELDS)]
        except ValueError:
            raise CpioError(f"the header at offset {at} has a field that is no number") from None
        name_at = at + _HEADER_SIZE
        data_at = _aligned(name_at + fields[11])
        end = data_at + fields[6]
        if end > len(data):
            raise CpioError(f"the archive ends inside the entry at offset {at}")
        path = data[name_at : name_at + fields[11] - 1].decode(errors="surrogateescape")
        if path == _TRAILER:
            return entries
        entries.append(Entry(path, fields[1], data[data_at:end], (fields[9], fields[10])))
        at = _aligned(end)


def _append(pieces: list[bytes], inode: int, entry: Entry) -> None:
    name = entry.path.encode(errors="surrogateescape") + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    size = len(entry.data)
    major, minor = entry.device
    fields = (inode, entry.mode, 0, 0, links, 0, size, 0, 0, major, minor, len(name), 0)
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    pieces += (head, b"\0" * (-len(head) % 4), entry.data, b"\0" * (-size % 4))


def _aligned(offset: int) -> int:
    return offset + 3 & ~3
