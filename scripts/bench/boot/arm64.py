"""boot-arm64: Debian's stock arm64 kernel to the first line of user space, in the emulated ARM host.

As ``boot``, against QEMU's ``virt`` board with a GICv3: same kernel, initrd and command line, 256 MiB, one
CPU, console on ttyAMA0. QEMU is Debian's for arm64, in a directory of its own in the cache, started by that
directory's own loader, so that the emulated host needs nothing of it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import lab
from boot import benchmark as boot
from common import Row, SkippedError, progress

from pyvmm.errors import PyvmmError
from pyvmm.images import cache, debian
from pyvmm.images.default import default_guest

ARCH = "arm64"
PACKAGE = "qemu-system-arm"
PROGRAM = "usr/bin/qemu-system-aarch64"
LIBRARIES = "usr/lib/aarch64-linux-gnu"
LOADER = f"{LIBRARIES}/ld-linux-aarch64.so.1"
#: What of the packages is kept.
KEPT = ("lib", "usr/lib", "usr/bin", "usr/share/qemu")
CMDLINE = "console=ttyAMA0 panic=-1"
VARIANTS = {"boot": CMDLINE, "boot, quiet": f"{CMDLINE} quiet"}
#: Seconds for one boot.
LIMIT = 150
#: Fewer exits than the peer.
EXITS_TARGET = 1.0


def measure(options: argparse.Namespace) -> list[Row]:
    # There are no ports on arm64: every exit of a device is MMIO.
    return boot.compare(_commands(), options.boot_pairs, ("all", "mmio"), EXITS_TARGET, ARCH, LIMIT)


def notes(options: argparse.Namespace) -> list[str]:
    return [f"in the arm64 lab, {options.boot_pairs} pairs, QEMU as -M virt,gic-version=3"]


def _commands() -> dict[tuple[str, str], list[str]]:
    try:
        place, guest = _qemu(), default_guest(ARCH, progress)
    except PyvmmError as error:
        raise SkippedError(str(error)) from None
    qemu = [str(place / LOADER), "--library-path", str(place / LIBRARIES), str(place / PROGRAM)]
    machine = "-M virt,gic-version=3 -accel kvm -cpu host -m 256 -nodefaults -no-user-config"
    rest = "-display none -no-reboot -serial stdio"
    commands = {}
    for variant, cmdline in VARIANTS.items():
        image = ["-kernel", guest.kernel, "-initrd", guest.initrd, "-append", cmdline]
        commands[variant, "pyvmm"] = lab.pyvmm(cmdline=cmdline, guest=guest)
        commands[variant, "qemu"] = [*qemu, *machine.split(), *rest.split(), *image]
    return commands


def _qemu() -> Path:
    """A directory with QEMU and the libraries it needs; made once, of some hundred packages."""

    def make(place: Path) -> None:
        for name in debian.closure(PACKAGE, ARCH, progress):
            root = debian.package(name, ARCH, progress).root
            for part in filter(lambda part: (root / part).exists(), KEPT):
                # /lib is /usr/lib, as on an installed system.
                target = place / (part if part.startswith("usr") else f"usr/{part}")
                shutil.copytree(root / part, target, symlinks=True, dirs_exist_ok=True)

    return cache.entry(f"bench-{PACKAGE}", make)
