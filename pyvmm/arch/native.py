"""This host's architecture, which is its guests', too. Modules that few runs need are imported on request."""

from __future__ import annotations

from os import uname

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from pyvmm.arch import interface
    from pyvmm.config import Config

if uname().machine == "aarch64":
    from pyvmm.arch.arm64 import chips

    #: Its name in the package, on the command line and in Debian.
    NAME, DEBIAN = "arm64", "arm64"
else:
    from pyvmm.arch.x86_64 import chips  # type: ignore[no-redef]

    NAME, DEBIAN = "x86_64", "amd64"

__all__ = [
    "DEBIAN",
    "NAME",
    "chips",
    "host",
    "inspection",
    "platform",
    "read_rom",
    "unpack_ahead",
    "vcpu_state",
]


def platform() -> Callable[[Config, Any], interface.Platform]:
    """This architecture's ``interface.Platform``."""
    if NAME == "arm64":
        from pyvmm.arch.arm64.platform import Arm64Platform

        return Arm64Platform
    from pyvmm.arch.x86_64.platform import X86Platform

    return X86Platform


def read_rom() -> interface.ReadRom:
    """The function that tells whether firmware is a ROM, and where it goes."""
    if NAME == "arm64":
        from pyvmm.arch.arm64 import firmware as arm64_firmware

        return arm64_firmware.read_rom
    from pyvmm.arch.x86_64 import firmware

    return firmware.read_rom


def unpack_ahead(kernel: memoryview) -> None:
    """Unpack what is compressed in the file *kernel*, for a machine that is built in a sandbox."""
    from pyvmm.boot import payload
    from pyvmm.boot.errors import ImageError

    payload.keep_unpacked()
    try:
        if NAME == "arm64":
            from pyvmm.boot.arm64.image import unpack

            unpack(kernel)
        else:
            from pyvmm.boot.x86.detect import unpacked

            unpacked(kernel)
    except ImageError:
        pass  # whoever loads it tells what is wrong


def inspection() -> ModuleType:
    """The module that describes a vCPU which cannot go on: ``where``, ``instruction``, ``advice``."""
    if NAME == "arm64":
        from pyvmm.arch.arm64 import inspection as arm64_inspection

        return arm64_inspection
    from pyvmm.arch.x86_64 import inspection

    return inspection


def vcpu_state() -> ModuleType:
    """The module that tells of a vCPU in its own thread: ``stopped``, ``SPINS``, ``kernel_data``, ..."""
    if NAME == "arm64":
        from pyvmm.arch.arm64 import vcpu_state as arm64_vcpu_state

        return arm64_vcpu_state
    from pyvmm.arch.x86_64 import vcpu_state

    return vcpu_state


def host() -> ModuleType:
    """The module that describes this host's KVM: ``virtualization``, ``ring0_speed``, ``NEEDED``, ..."""
    if NAME == "arm64":
        from pyvmm.arch.arm64 import host as arm64_host

        return arm64_host
    from pyvmm.arch.x86_64 import host

    return host
