"""Stand-ins for files of a guest image: busybox has its table of commands, a kernel module its .modinfo."""

from __future__ import annotations

import struct

BUSYBOX = b"\x7fELF...\0[\0[[\0cat\0sh\0umount\0\0more"


def module_file(depends, vermagic=""):
    """A kernel module: a relocatable ELF with nothing but .modinfo."""
    info = b"license=GPL\0depends=" + ",".join(depends).encode() + b"\0name=x\0"
    if vermagic:
        info += f"vermagic={vermagic}".encode() + b"\0"
    names = b"\0.modinfo\0.shstrtab\0"
    at = 64 + len(info) + len(names)
    head = (
        b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, at, 0, 64, 0, 0, 64, 3, 2)
    )
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 1, 1, 2, 0, 64, len(info), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, 64 + len(info), len(names), 0, 0, 1, 0)
    return head + info + names + sections
