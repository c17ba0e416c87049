"""Which format an image has, by its first bytes.

Sources: QEMU docs/interop/qcow2.txt, the VMDK, VDI, VHD, VHDX, QED and Parallels headers as
file(1) knows them. Names are those of QEMU's block drivers.
"""

from __future__ import annotations

#: Bytes from the start that ``detect`` looks at.
HEAD = 512
#: Bytes from the start that ``partition_table_block`` looks at.
TABLE_HEAD = 4096 + 8
#: The signature of a GUID partition table, which is in the disk's second block (UEFI 2.10, 5.3.2).
_GPT = b"EFI PART"

# Offset, magic, name.
_MAGIC = (
    (0, b"QFI\xfb\0\0\0\x01", "qcow"),
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
)

#: The ends of names that stand for a format; any other is raw's.
_NAMES = {".qcow2": "qcow2", ".vmdk": "vmdk"}
#: A VMDK descriptor: a text whose first line that is neither empty nor a comment is this (block/vmdk.c).
_VMDK_TEXT = b"version="

#: The formats an image can be said to have.
FORMATS = ("raw", *dict.fromkeys(name for _, _, name in _MAGIC))


def detect(head: bytes) -> str:
    """The format of an image that begins with *head*; ``raw`` for one with no header."""
    for offset, magic, name in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name
    if head[:1] in (b"#", b"\n", b"\r", b"v"):
        lines = (line.strip() for line in head.splitlines())
        if next((line for line in lines if line and line[:1] != b"#"), b"").startswith(_VMDK_TEXT):
            return "vmdk"
    return "raw"


def named_format(path: str) -> str:
    """The format that the end of the name *path* stands for: ``qcow2``, ``vmdk``, else ``raw``."""
    return next((name for end, name in _NAMES.items() if path.lower().endswith(end)), "raw")


def partition_table_block(head: bytes) -> int:
    """The bytes of a block, 512 or 4096, as the GPT in *head*, a disk's begin, counts them; 0: no GPT."""
    return next((size for size in (512, 4096) if head[size : size + len(_GPT)] == _GPT), 0)
