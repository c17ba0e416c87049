"""What a guest has on the host, opened once, and used by one machine after the other.

The parent of a VM process opens it and forks; the VM process makes the devices of one machine out of it.
"""

from __future__ import annotations

import os
import stat

from pyvmm.backends.host_objects import HostObjects
from pyvmm.backends.spec import make_backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.base import CharBackend
    from pyvmm.config import Config
    from pyvmm.virtio.console.port import Port
    from pyvmm.virtio.device import VirtioDevice

#: Bytes of messages that standard output and error have room for where they are files.
_MESSAGES = 64 << 20


class HostSide:
    """The serial console of *config* and what its devices have on the host.

    :param console: the backend of the serial console; None: the one that *config* names
    """

    def __init__(self, config: Config, console: CharBackend | None = None) -> None:
        self._config = config
        #: Whether the process of a machine may ask for something to be done by name (``host.broker``).
        self.asks = bool(config.devices or config.looked_at or ":" in config.console)
        self.objects = HostObjects()
        self.console = console or make_backend(config.console)

    def open(self) -> list[Port]:
        """Open it, before the first fork; returns the ports of the virtio console, to be told of.

        Not what has to be opened by the process of the machine: the devices of the user's own, but for the
        processes of those that are isolated. Raises ConfigError, StartError.
        """
        if self.asks:
            from pyvmm.host import broker

            broker.begin()
        self.objects.open("console", lambda: self.console)
        ports: list[Port] = []
        config = self._config
        if config.devices:
            from pyvmm.config import DEVICE_KINDS
            from pyvmm.virtio.options import make_devices

            kinds = {kind for kind, declared in DEVICE_KINDS.items() if declared.host_objects}
            for device in make_devices(config.devices, None, config.name, self.objects, kinds):
                ports += getattr(device, "ports", ())
                device.close()
        if any(device.isolated for device in config.devices):
            from pyvmm.virtio.user_device_options import start_isolated

            start_isolated(config.devices, self.objects)
        if config.looked_at:
            from pyvmm.virtio.tools.install import open_files

            open_files(config, self.objects)
        return ports

    def devices(self) -> list[VirtioDevice]:
        """The devices that *config* names for the next machine. In its process. Raises as ``open``."""
        config = self._config
        if not config.devices:
            return []
        from pyvmm.virtio.options import make_devices

        return list(make_devices(config.devices, None, config.name, self.objects))

    def largest_file(self) -> int | None:
        """Bytes that a file which the process of a machine writes to may have; None: that cannot be told.

        It cannot for what the user's own devices write, nor for standard output and error as files where they
        have the guest's output or a trace.
        """
        config = self._config
        if any(device.kind == "device" and not device.isolated for device in config.devices):
            return None
        most = max((one.largest_file for one in self.objects), default=0)
        to_output = config.uses_stdio or config.exec is not None
        to_errors = config.exec is not None or bool(config.trace_device)
        for fd, unbounded in ((1, to_output), (2, to_errors)):
            try:
                found = os.fstat(fd)
            except OSError:
                continue  # it is closed
            if stat.S_ISREG(found.st_mode):
                if unbounded:
                    return None
                most = max(most, found.st_size + _MESSAGES)
        return most

    def reopen(self) -> None:
        """Before another machine: replace what has ended by itself, such as a helper. Raises StartError."""
        for one in self.objects:
            one.reopen()

    def drain(self) -> None:
        """In the process of the last machine, after it: write what is buffered."""
        for one in self.objects:
            one.drain()

    def close_copy(self) -> None:
        """In the process of the last machine: close its copies; the parent has released them."""
        for one in self.objects:
            one.close_copy()

    def close(self) -> None:
        """After the last machine. Idempotent."""
        self.objects.close()
