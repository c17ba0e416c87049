"""The busybox of a guest whose kernel is not Debian's: a static program, the host's or Debian's package."""

from __future__ import annotations

import io
import os
from pathlib import Path

from pyvmm.arch import native
from pyvmm.host.report import progress
from pyvmm.images import debian
from pyvmm.images.initramfs import InitramfsError, applets, busybox_program

#: Debian's package of it.
PACKAGE = "busybox-static"
#: Alpine has a dynamic busybox and, in a package of its own, a static one beside it.
_NAMES = ("busybox.static", "busybox-static", "busybox")
#: Searched after $PATH: root's programs are not in a user's.
MORE_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_MACHINES = {"amd64": "EM_X86_64", "arm64": "EM_AARCH64"}


def static_busybox() -> bytes | None:
    """A busybox that runs without libraries; None where none can be had.

    Debian's from the cache, this host's, or Debian's fetched by apt, in this order: the network comes last.
    Raises CacheError when the cache cannot be written.
    """
    if f"{native.DEBIAN}/{PACKAGE}" in debian.fetched():
        return busybox_program(debian.package(PACKAGE, native.DEBIAN))
    path = find_busybox()
    if path is not None:
        return Path(path).read_bytes()
    try:
        return busybox_program(debian.package(PACKAGE, native.DEBIAN))
    except (debian.PackageError, InitramfsError) as error:
        progress(str(error))
        return None


def find_busybox(path: str | None = None) -> str | None:
    """The path of a static busybox of this architecture; None when there is none.

    :param path: directories, separated by colons; by default those of $PATH, then the usual ones
    """
    if path is None:
        path = f"{os.environ.get('PATH', '')}:{MORE_PATH}"
    for name in _NAMES:
        for folder in path.split(":"):
            found = os.path.join(folder, name)
            if folder and os.path.isfile(found) and os.access(found, os.R_OK) and _is_usable(found):
                return found
    return None


def _is_usable(path: str) -> bool:
    try:
        program = Path(path).read_bytes()
        applets(program)
    except (OSError, InitramfsError):
        return False
    return _is_static(program)


def _is_static(program: bytes) -> bool:
    """Whether it is a program of this architecture that needs no dynamic linker."""
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(io.BytesIO(program))
        interpreters = list(elf.iter_segments("PT_INTERP"))
        machine = elf["e_machine"]
    except Exception:  # pyelftools raises many kinds for a damaged file
        return False
    return machine == _MACHINES[native.DEBIAN] and not interpreters
