"""The programs of an emulated host that cannot run this machine's: a small Debian, made from packages.

busybox, Python, the packages pyvmm needs that are not pure Python, tools for ext4, and the programs beside
which pyvmm runs: virtiofsd and passt. It is unpacked into a directory of the cache, which the host mounts.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from pyvmm.images import cache, debian, initramfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Python, what its extension modules are linked with (pyroute2 wants sqlite3), the compiled packages of
#: pyproject.toml, mkfs.ext4, passt, and virtiofsd with what it is linked with.
PACKAGES = (
    "busybox-static",
    "libc6",
    "libgcc-s1",
    "zlib1g",
    "libbz2-1.0",
    "libexpat1",
    "libffi8",
    "liblzma5",
    "libssl3",
    "libuuid1",
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libcapstone4",
    "python3-capstone",
    "libzstd1",
    "python3-zstandard",
    "liblz4-1",
    "python3-lz4",
    "python3-psutil",
    "e2fsprogs",
    "libblkid1",
    "libcom-err2",
    "libext2fs2",
    "libss2",
    "libsqlite3-0",
    "passt",
    "qemu-system-common",
    "libcap-ng0",
    "libglib2.0-0",
    "libnuma1",
    "libpcre2-8-0",
    "libseccomp2",
)
#: Where Debian's packages for Python lie.
PYTHON_PACKAGES = "/usr/lib/python3/dist-packages"
PYTHON = "/usr/bin/python3.11"
_LINKS = ("bin", "lib", "sbin")
# Increase it when the layout changes for the same packages.
_LAYOUT = 2


def plan() -> str:
    """A hash that changes with the packages and the layout."""
    return "\n".join([str(_LAYOUT), *PACKAGES])


def fetched(architecture: str) -> bool:
    """Whether all packages are in the cache, so that no network is needed."""
    return {f"{architecture}/{name}" for name in PACKAGES} <= set(debian.fetched())


def prepare(architecture: str, say: Callable[[str], None] | None = None) -> Path:
    """The directory, from the cache or made now. Raises PackageError, CacheError or InitramfsError."""
    packages = [debian.package(name, architecture, say) for name in PACKAGES]
    versions = "\n".join([str(_LAYOUT), *(f"{package.name} {package.version}" for package in packages)])
    key = hashlib.sha256(versions.encode()).hexdigest()[:16]

    def build(place: Path) -> None:
        place.mkdir()
        for name in _LINKS:
            (place / name).symlink_to(f"usr/{name}")
        for package in packages:
            for top in package.root.iterdir():
                target = place / "usr" / top.name if top.name in _LINKS else place / top.name
                shutil.copytree(top, target, symlinks=True, dirs_exist_ok=True)
        programs = place / "usr/bin"
        (programs / "python3").symlink_to(PYTHON)
        for name in initramfs.applets((programs / "busybox").read_bytes()):
            if not (programs / name).exists():
                (programs / name).symlink_to("busybox")
        for name in ("dev", "proc", "root", "run", "sys", "tmp"):
            (place / name).mkdir(exist_ok=True)
        (place / "etc").mkdir(exist_ok=True)
        # passt, started by root, changes to the user nobody.
        (place / "etc/passwd").write_text(
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
        )
        (place / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
        (place / "etc/resolv.conf").touch()
        _compile(place)

    return cache.entry(f"lab/system-{architecture}-{key}", build)


def _compile(place: Path) -> None:
    """Make the byte code that Debian makes when a package is installed; it is the same on every machine."""
    if sys.version_info[:2] != (3, 11):
        return  # slower, but another Python's byte code could not be used
    import compileall

    for folder in ("usr/lib/python3.11", "usr/lib/python3"):
        compileall.compile_dir(place / folder, quiet=2, stripdir=str(place), prependdir="/")
