"""The release of a Linux kernel, as ``uname -r`` prints it, out of its image.

A bzImage's setup header points to a version string (Documentation/arch/x86/boot.rst, kernel_version). Every
other kernel has its banner, ``Linux version RELEASE (...)``, in its data (init/version.c).
"""

from __future__ import annotations

import re
import shlex
import struct
from pathlib import Path

from pyvmm.errors import StartError

_BOOT_FLAG = (0x1FE, b"\x55\xaa")
_HEADER = (0x202, b"HdrS")
_KERNEL_VERSION = 0x20E
#: What kernel_version counts from.
_VERSION_BASE = 0x200
_VERSION_MAX = 256
_HEAD = 0x10000 + _VERSION_BASE + _VERSION_MAX
_BANNER = re.compile(rb"Linux version ([\w.+~-]{1,64}) \(")
#: Larger files are not searched.
_IMAGE_MAX = 1 << 30


class KernelFileError(StartError):
    """There is no kernel where one was looked for, it cannot be read, or it is none of Linux."""


class ForbiddenKernelError(KernelFileError):
    """A kernel's file exists and this user may not read it."""


def kernel_release(path: Path) -> str:
    """The release of the kernel in file *path*.

    Raises KernelFileError for a file that cannot be read or is no Linux kernel, ForbiddenKernelError for one
    that this user may not read, ImageError for one whose compressed kernel is damaged.
    """
    try:
        if not path.is_file():
            missing = "does not exist" if not path.exists() else "is not a regular file"
            raise KernelFileError(f"kernel {path} {missing}; give the path of a kernel's image")
        with path.open("rb") as file:
            head = file.read(_HEAD)
            if _is_bzimage(head):
                return _checked(_header_text(head), path)
            data = head + file.read(max(_IMAGE_MAX - len(head), 0))
    except PermissionError:
        raise ForbiddenKernelError(
            f"this user may not read the kernel {path}; make it readable with "
            f"`sudo chmod a+r {shlex.quote(str(path))}`, again after each update of the kernel"
        ) from None
    except OSError as error:
        raise KernelFileError(f"kernel {path} cannot be read: {error.strerror}") from None
    return _checked(_release(memoryview(data)), path)


def _release(image: memoryview) -> bytes:
    """The release in an image that is no bzImage; empty when there is none. Raises ImageError."""
    from pyvmm.boot.arm64.image import unpack
    from pyvmm.boot.uki import unified_kernel

    unified = unified_kernel(image)
    if unified is not None:
        image = unified.kernel
        head = bytes(image[:_HEAD])
        if _is_bzimage(head):
            return _header_text(head)
    found = _BANNER.search(unpack(image))
    return found[1] if found else b""


def _is_bzimage(head: bytes) -> bool:
    return all(head[at : at + len(magic)] == magic for at, magic in (_BOOT_FLAG, _HEADER))


def _header_text(head: bytes) -> bytes:
    (at,) = struct.unpack_from("<H", head.ljust(_HEAD, b"\0"), _KERNEL_VERSION)
    text = head[_VERSION_BASE + at : _VERSION_BASE + at + _VERSION_MAX] if at else b""
    return text.partition(b"\0")[0].partition(b" ")[0]


def _checked(name: bytes, path: Path) -> str:
    release = name.decode("ascii", "replace")
    if not re.fullmatch(r"\w[\w.+~-]*", release, re.ASCII):
        raise KernelFileError(
            f"{path} does not say which release of Linux it is, so that its modules cannot be found; give a "
            "Linux kernel: a bzImage, an Image or a vmlinux"
        )
    return release
