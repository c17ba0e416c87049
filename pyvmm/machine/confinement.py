"""The sandbox of a VM process: entered before its machine is built, complete before the guest begins.

docs/internals/isolation.md has the order and its reasons.
"""

from __future__ import annotations

import os
from _thread import _count

from pyvmm.arch import native
from pyvmm.errors import StartError
from pyvmm.host import descriptors, opened
from pyvmm.host.limits import UNLIMITED
from pyvmm.host.sandbox import DESCRIPTORS, Sandbox
from pyvmm.machine import late
from pyvmm.machine.payload import read_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.config import Config
    from pyvmm.machine.host_side import HostSide
    from pyvmm.virtio.device import VirtioDevice

#: Descriptors more of a guest whose programs have sockets of the host's.
_VSOCK_DESCRIPTORS = 600


class Confinement:
    """Confines this process, which has one thread, to one machine of *config*.

    ``enter`` comes before the machine is built, ``seal`` is for its ``at_start``.

    :param host_side: what it has on the host
    :param devices: its virtio devices, made and not attached
    :param serves_exec: whether it has a channel for commands, and our init with it
    :param largest_file: bytes of the largest file that this process writes to besides those of *host_side*
    :param kvm_path: the KVM device
    """

    def __init__(
        self,
        config: Config,
        host_side: HostSide,
        devices: Sequence[VirtioDevice],
        serves_exec: bool,
        largest_file: int = 0,
        kvm_path: str = "/dev/kvm",
    ) -> None:
        self._kvm_path = kvm_path
        self._config = config
        self._host_side = host_side
        self._largest_file = largest_file
        self._file_size = UNLIMITED
        self._serves_exec = serves_exec
        self._devices = devices
        self._sandbox = Sandbox(paths=[path for device in devices for path in device.paths])

    @property
    def lacking(self) -> Sequence[str]:
        """What this host could not do, as ``Sandbox.lacking``."""
        return self._sandbox.lacking

    def enter(self, more: Sequence[str] = ()) -> None:
        """Open what the machine reads by name, and give up the rest of the host.

        *more* are modules that this process may import later, besides those of a machine. Raises StartError
        for a process with several threads and for kernels before 5.9.
        """
        config = self._config
        most = self._host_side.largest_file()
        if most is not None:
            self._file_size = max(most, self._largest_file)
        native.chips.check_ram(config.memory_size)  # needs files that no longer can be seen when it is built
        opened.keep(self._kvm_path, os.O_RDWR)
        files = (config.firmware, config.kernel, config.dtb, *config.initrd, *config.dtb_overlay)
        for path in filter(None, files):
            opened.keep(path, os.O_RDONLY | os.O_NONBLOCK)
        for part in config.memory:
            if part.path is not None:
                opened.keep(part.path, os.O_RDWR | os.O_NONBLOCK)
        if self._serves_exec:
            from pyvmm.images.initramfs import keep_init

            keep_init(native.DEBIAN)
        if config.firmware is None and config.kernel is not None:
            native.unpack_ahead(read_image(config.kernel, "kernel"))
        late.load(virtio=bool(self._devices) or config.kernel is not None, more=more)
        if _count():
            raise StartError(
                "a device has begun a thread before its machine is built; let its method attached do that, "
                "or give --sandbox=off"
            )
        try:
            self._sandbox.enter(descriptors.own())
        except OSError as error:
            raise StartError(f"{error.strerror or error}; give --sandbox=off on this host") from None

    def seal(self) -> None:
        """Limits, and the filter of system calls on every thread."""
        vsock = any(device.name == "vsock" for device in self._devices)
        self._sandbox.seal(
            descriptors=_VSOCK_DESCRIPTORS if vsock else DESCRIPTORS,
            file_size=self._file_size,
        )
