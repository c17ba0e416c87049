"""Which other file an image's header names: the one below it, whose contents it has only the changes to.

An image may come from anybody, and the name in it may be any file of the user's, or a server. So it is looked
for here, and refused or taken for what ``backing=`` gives; nothing ever opens it by that name. What is not
understood is refused.

Sources: QEMU docs/interop/qcow2.txt, docs/interop/qed_spec.txt, block/qcow.c, block/vdi.c, block/vmdk.c;
VMware Virtual Disk Format 1.1; Microsoft's VHD specification, and [MS-VHDX] 2.6.2.1.
"""

from __future__ import annotations

import os
from struct import Struct, unpack_from
from struct import error as StructError

from pyvmm.backends.disk.base import DiskError
from pyvmm.host.printable import printable

#: The longest name that QEMU takes from a header.
_MAX_NAME = 1023
# qcow2
_Q2_DATA_FILE, _Q2_KNOWN = 1 << 2, 0x1F
_Q2_END, _Q2_BACKING_FORMAT, _Q2_DATA_FILE_NAME = 0, 0xE2792ACA, 0x44415441
_Q2_MAX_EXTENSIONS = 64
# QED
_QED_BACKING, _QED_RAW = 1, 4
# VMDK: the embedded descriptor is looked for in sectors 1 to 20, as QEMU does.
_VMDK_DESCRIPTOR, _VMDK_DESCRIPTOR_SIZE = 512, 20 * 512
# VDI, VHD
_VDI_DYNAMIC, _VDI_FIXED = 1, 2
_VHD_DIFFERENCING = 4
# VHDX: two copies of the region table, each with the place of the metadata table.
_VHDX_REGIONS, _VHDX_MAX_REGIONS = (192 << 10, 256 << 10), 2047
_VHDX_METADATA = bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e")
_VHDX_PARAMETERS = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
_VHDX_HAS_PARENT = 2
_REGION, _ENTRY = Struct("<16sQII"), Struct("<16sIII")


class Backing:
    """What a header says of the image below.

    :param name: printable, for messages
    :param format: its format as the header has it; None where it does not say
    """

    def __init__(self, name: bytes, format: str | None) -> None:
        self.name = printable(name)
        self.format = format


def backing_of(fd: int, path: str, format: str) -> Backing | None:
    """What the image open as *fd*, of *format*, is based on; None when it stands alone.

    Raises DiskError for one that needs a file that cannot be given, and for one whose header is damaged.
    """
    reader = _READERS.get(format)
    try:
        return reader(fd, path) if reader is not None else None
    except (OSError, StructError) as problem:
        raise DiskError(f"disk {path}: its {format} header cannot be read: {problem}") from None


def _qcow(fd: int, path: str) -> Backing | None:
    offset, size = unpack_from(">QI", os.pread(fd, 48, 0), 8)
    return Backing(_name(fd, path, "qcow", offset, size), None) if offset and size else None


def _qcow2(fd: int, path: str) -> Backing | None:
    head = os.pread(fd, 104, 0)
    version, offset, size, cluster_bits = unpack_from(">IQII", head, 4)
    if version not in (2, 3) or not 9 <= cluster_bits <= 21:
        raise _damaged(path, "qcow2")
    length = 72
    if version == 3:
        [features] = unpack_from(">Q", head, 72)
        [length] = unpack_from(">I", head, 100)
        if features & _Q2_DATA_FILE:
            raise _data_file(path)
        if features & ~_Q2_KNOWN:
            raise DiskError(f"disk {path} has features that pyvmm does not know; convert it: {_CONVERT}")
    end = min(offset or 1 << cluster_bits, 1 << cluster_bits)
    named = None
    for kind, data in _extensions(os.pread(fd, end, 0), length, path):
        if kind == _Q2_DATA_FILE_NAME:
            raise _data_file(path)
        if kind == _Q2_BACKING_FORMAT:
            named = printable(data, 20)
    return Backing(_name(fd, path, "qcow2", offset, size), named) if offset and size else None


def _extensions(head: bytes, at: int, path: str) -> list[tuple[int, bytes]]:
    """The kind and data of the header extensions of a qcow2 image from *at* on, to the end of *head*."""
    found: list[tuple[int, bytes]] = []
    while at + 8 <= len(head):
        kind, size = unpack_from(">II", head, at)
        if kind == _Q2_END:
            break
        if size > len(head) - at - 8 or len(found) == _Q2_MAX_EXTENSIONS:
            raise _damaged(path, "qcow2")
        found.append((kind, head[at + 8 : at + 8 + size]))
        at += 8 + (size + 7) // 8 * 8
    return found


def _qed(fd: int, path: str) -> Backing | None:
    head = os.pread(fd, 64, 0)
    [features] = unpack_from("<Q", head, 16)
    offset, size = unpack_from("<II", head, 56)
    if not features & _QED_BACKING:
        return None
    return Backing(_name(fd, path, "qed", offset, size), "raw" if features & _QED_RAW else None)


def _vmdk(fd: int, path: str) -> Backing | None:
    """Only a sparse image in one file: one that is a text, or an extent of another, names its extents."""
    head = os.pread(fd, 64, 0)
    [capacity] = unpack_from("<Q", head, 12)
    if head[:4] != b"KDMV" or not capacity:
        raise DiskError(f"disk {path} is a VMDK image of several files; convert it into one: {_CONVERT}")
    text = os.pread(fd, _VMDK_DESCRIPTOR_SIZE, _VMDK_DESCRIPTOR).partition(b"\0")[0]
    for line in text.splitlines():
        key, _, value = line.partition(b"=")
        if key.strip() == b"parentCID" and value.strip().lower() != b"ffffffff":
            break
    else:
        if b"parentFileNameHint" not in text:
            return None
    return Backing(text.partition(b'parentFileNameHint="')[2].partition(b'"')[0], "vmdk")


def _vdi(fd: int, path: str) -> None:
    if unpack_from("<I", os.pread(fd, 80, 0), 76)[0] not in (_VDI_DYNAMIC, _VDI_FIXED):
        raise _differencing(path)


def _vpc(fd: int, path: str) -> None:
    if unpack_from(">I", os.pread(fd, 64, 0), 60)[0] == _VHD_DIFFERENCING:
        raise _differencing(path)


def _vhdx(fd: int, path: str) -> None:
    """The flag is in the metadata: the parents' names are not looked at."""
    seen = 0
    for place in _VHDX_REGIONS:
        table = os.pread(fd, 64 << 10, place)
        if table[:4] != b"regi":
            continue
        [count] = unpack_from("<I", table, 8)
        for n in range(min(count, _VHDX_MAX_REGIONS)):
            guid, offset, _, _ = _REGION.unpack_from(table, 16 + n * _REGION.size)
            if guid == _VHDX_METADATA:
                seen += 1
                _check_vhdx_metadata(fd, path, offset)
    if not seen:
        raise _damaged(path, "vhdx")


def _check_vhdx_metadata(fd: int, path: str, place: int) -> None:
    table = os.pread(fd, 64 << 10, place)
    [count] = unpack_from("<H", table, 10)
    for n in range(min(count, _VHDX_MAX_REGIONS)):
        guid, offset, _, _ = _ENTRY.unpack_from(table, 32 + n * 32)
        if guid == _VHDX_PARAMETERS:
            if unpack_from("<II", os.pread(fd, 8, place + offset))[1] & _VHDX_HAS_PARENT:
                raise _differencing(path)
            return
    raise _damaged(path, "vhdx")


_READERS = {
    "qcow": _qcow,
    "qcow2": _qcow2,
    "qed": _qed,
    "vdi": _vdi,
    "vhdx": _vhdx,
    "vmdk": _vmdk,
    "vpc": _vpc,
}
_CONVERT = "qemu-img convert -O qcow2, where you trust it"


def _name(fd: int, path: str, format: str, offset: int, size: int) -> bytes:
    if size > _MAX_NAME or offset >= 1 << 62:
        raise _damaged(path, format)
    return os.pread(fd, size, offset)


def _damaged(path: str, format: str) -> DiskError:
    return DiskError(f"disk {path}: its {format} header is damaged; give another image")


def _data_file(path: str) -> DiskError:
    return DiskError(
        f"disk {path} keeps its data in another file, which it names; convert it into one file: {_CONVERT}"
    )


def _differencing(path: str) -> DiskError:
    return DiskError(
        f"disk {path} has only the changes to another image; merge the two where it was made, and give the "
        "result"
    )
