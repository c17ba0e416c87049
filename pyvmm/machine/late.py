"""What a machine imports while it is built, runs and ends: loaded before the process has no file system.

A module that is missing here is an ImportError in the sandbox (``host/sandbox.py``);
tests/machine/test_sandbox.py looks for such.
"""

from __future__ import annotations

import os

from pyvmm import bundle
from pyvmm.arch import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: Packages of which every module is loaded, and modules besides.
_ROOMS = ("pyvmm.machine", "pyvmm.pykvm", "pyvmm.host", "pyvmm.board", f"pyvmm.arch.{native.NAME}")
_MODULES = (
    "array",
    "errno",
    "json",
    "logging",
    "mmap",
    "re",
    "signal",
    "time",
    "zlib",
    "pyvmm.arch.fwcfg",
    "pyvmm.backends.spec",
    "pyvmm.boot.cmdline",
    "pyvmm.boot.elf",
    "pyvmm.boot.symbols",
    "pyvmm.boot.uki",
    "pyvmm.boot.virtio_cmdline",
)
#: The same for a machine with virtio devices, besides the modules of each device.
_VIRTIO_ROOMS = ("pyvmm.virtio", "pyvmm.virtio.ring", "pyvmm.virtio.transport")
_VIRTIO_MODULES = (
    "pyvmm.backends.disk.aligned",
    "pyvmm.backends.disk.pool",
    "pyvmm.virtio.block.device",
    "pyvmm.virtio.console.device",
    "pyvmm.virtio.net.device",
)
#: Of those packages: what makes processes, which this one no longer can.
_NEVER = ("child", "confined", "helper_filter", "interpreter", "restricted")
#: Of those packages: loaded by what reads a user's own device from its file, before there is no file system.
_EARLIER = ("__init__", "user_device")
_PYVMM = os.path.dirname(os.path.dirname(__file__))
_ARCHITECTURE = {
    "arm64": ("pyvmm.boot.devicetree", "pyvmm.devices.serial", "pyvmm.devices.spaced"),
    "x86_64": (
        "pyvmm.boot.acpi",
        "pyvmm.boot.pe",
        "pyvmm.boot.x86.biosdata",
        "pyvmm.boot.x86.detect",
        "pyvmm.boot.x86.e820",
        "pyvmm.boot.x86.firmware",
        "pyvmm.boot.x86.lowmem",
        "pyvmm.boot.x86.mptable",
        "pyvmm.boot.x86.params",
        "pyvmm.boot.x86.reset",
    ),
}


def load(*, virtio: bool, more: Iterable[str] = ()) -> None:
    """Make it all, and *more*, importable without a file system; *virtio*: the machine has virtio devices.

    A bundle has it; else it is imported, which takes 0.3 s. The libraries that name an instruction
    (capstone) and a place in a kernel (elftools) are not among it, for they take 0.4 s: a message about
    a guest that KVM cannot run goes without.
    """
    if not bundle.settle():
        for name in (*modules(virtio=virtio), *more):
            __import__(name)


def modules(*, virtio: bool) -> list[str]:
    """The names of it all."""
    names = [*_MODULES, *_ARCHITECTURE[native.NAME], *(_VIRTIO_MODULES if virtio else ())]
    for room in (*_ROOMS, *(_VIRTIO_ROOMS if virtio else ())):
        with os.scandir(_PYVMM + room.removeprefix("pyvmm").replace(".", "/")) as entries:
            for entry in entries:
                name, _, ending = entry.name.partition(".")
                if name not in (*_EARLIER, *_NEVER) and (
                    ending == "py" or os.path.exists(f"{entry.path}/__init__.py")
                ):
                    names.append(f"{room}.{name}")
    return sorted(names)
