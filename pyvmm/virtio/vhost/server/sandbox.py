"""The sandbox of a process that serves one device: what is left to it is the device and its front end."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pkgutil import iter_modules

from pyvmm.host import descriptors, device_filter
from pyvmm.host.sandbox import DESCRIPTORS, Sandbox
from pyvmm.virtio.errors import DeviceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.virtio.device import VirtioDevice

#: Packages of which all modules are loaded where one is: what they import as they run is there then.
_ROOMS = ("pyvmm.backends", "pyvmm.host", "pyvmm.memory", "pyvmm.virtio")
_MODULES = ("array", "errno", "logging", "mmap", "re", "threading", "time")
#: Descriptors that a front end gives for each queue, twice, as it may give others: kick, call, err.
_A_QUEUE = 6


class DeviceSandbox:
    """Confines this process, which has made *device* and has one thread, to serving it.

    ``enter`` comes before the device has its loop, ``seal`` when everything is set up.

    :param otherwise: what errors name as the way to do without

    Raises DeviceError for ``paths`` of the device's that cannot stay reachable.
    """

    def __init__(self, device: VirtioDevice, otherwise: str) -> None:
        self._device = device
        self._otherwise = otherwise
        self._sandbox = Sandbox(paths=_checked(device))

    @property
    def lacking(self) -> Sequence[str]:
        """What this host could not do, as ``Sandbox.lacking``."""
        return self._sandbox.lacking

    def enter(self) -> None:
        """The first half. Descriptors that this process was started with are closed, but the standard ones.

        Raises DeviceError for a process with several threads and for kernels before 5.9.
        """
        _load()
        if len(os.listdir("/proc/self/task")) > 1:
            raise DeviceError(
                f"{self._device.name} has begun a thread before it is confined; let its method attached do "
                f"that, or {self._otherwise}"
            )
        try:
            self._sandbox.enter(descriptors.own())
        except OSError as error:
            raise DeviceError(f"{error.strerror or error}; {self._otherwise} on this host") from None

    def seal(self) -> None:
        """The second half: limits, and the filter of system calls on every thread."""
        more = DESCRIPTORS + _A_QUEUE * len(self._device.queue_sizes)
        self._sandbox.seal(descriptors=more, program=device_filter.program)


def _checked(device: VirtioDevice) -> list[str]:
    """The absolute paths that *device* declares. Raises DeviceError."""
    declared = device.paths
    if isinstance(declared, str) or not all(isinstance(path, str) and path for path in declared):
        raise DeviceError(f"{device.name}: paths is {declared!r}; make it a list of files and directories")
    found = [os.path.abspath(path) for path in declared]
    for path in found:
        if not os.path.exists(path):
            raise DeviceError(f"{device.name}: paths names {path}, which is not there; make it first")
        if path == "/" or f"{path}/".startswith("/proc/"):
            raise DeviceError(f"{device.name}: paths names {path}, which cannot be in a sandbox; narrow it")
    return found


def _load() -> None:
    """Import what a device may import as it runs: there is no module to be found any more then."""
    names = [*_MODULES]
    for name, module in list(sys.modules.items()):
        if name.startswith(_ROOMS) and hasattr(module, "__path__"):
            names += [f"{name}.{found.name}" for found in iter_modules(module.__path__)]
    for name in names:
        import_module(name)
