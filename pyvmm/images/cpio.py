"""cpio archives in the "newc" format, as Linux takes them for an initramfs.

The format is ``pyvmm/cpio.py``'s. The same entries give the same bytes: modification times and owners are 0
and inodes are numbered in the order given. Nothing is read from or made on the host's file system, so device
nodes need no privilege.
"""

from __future__ import annotations

import stat

from pyvmm.cpio import TRAILER, CpioError, Header, Reader, padding


class CpioEntry:
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


def file(path: str, data: bytes, mode: int = 0o644) -> CpioEntry:
    """A regular file."""
    return CpioEntry(path, stat.S_IFREG | mode, data)


def folder(path: str, mode: int = 0o755) -> CpioEntry:
    """A directory."""
    return CpioEntry(path, stat.S_IFDIR | mode)


def symlink(path: str, target: str) -> CpioEntry:
    """A symbolic link to *target*."""
    return CpioEntry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int, mode: int = 0o600) -> CpioEntry:
    """A character device node with the device numbers *major* and *minor*."""
    return CpioEntry(path, stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: list[CpioEntry]) -> bytes:
    """The archive of *entries* in the order given, missing parent directories put in before.

    A later entry takes the place of an earlier one with the same path. The length is a
    multiple of four, so that archives can be put one after the other. Raises CpioError for a
    path that is absolute, empty or has ``..`` in it, and for files of 4 GiB and more.
    """
    whole: dict[str, CpioEntry] = {}
    for entry in entries:
        parts = entry.path.split("/")
        if "" in parts or "." in parts or ".." in parts or "\0" in entry.path:
            raise CpioError(
                f"{entry.path!r} cannot be a path in an initramfs; write it relative, without . and .."
            )
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            whole.setdefault(parent, folder(parent))
        whole[entry.path] = entry
    pieces: list[bytes] = []
    for inode, entry in enumerate(whole.values(), 1):
        _append(pieces, inode, entry)
    _append(pieces, 0, CpioEntry(TRAILER, 0))
    return b"".join(pieces)


def read(data: bytes) -> list[CpioEntry]:
    """The entries of the first archive in *data*. Raises CpioError for anything malformed."""
    entries: list[CpioEntry] = []
    reader = Reader()
    left = 0
    for item in reader.feed(data):
        if isinstance(item, Header):
            entries.append(CpioEntry(item.name, item.mode, device=item.device))
            left = item.size
        else:
            entries[-1].data = item
            left -= len(item)
    if left or not reader.ended:
        raise CpioError("the archive ends before its last entry")
    return entries


def _append(pieces: list[bytes], inode: int, entry: CpioEntry) -> None:
    header = Header(entry.path, entry.mode, len(entry.data), device=entry.device)
    pieces += (header.pack(inode), entry.data, padding(len(entry.data)))
