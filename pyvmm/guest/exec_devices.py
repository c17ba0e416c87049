"""The devices of a machine's exec channel."""

from __future__ import annotations

from pyvmm.exec.channel import PORT_NAME, ExecChannel, ExecLink
from pyvmm.virtio.console.device import VirtioConsole
from pyvmm.virtio.console.port import Port


class ExecDevices:
    """Made anew for each machine."""

    def __init__(self) -> None:
        port = ExecChannel()
        #: For the machine: the backend of its second serial port, and the device of the faster way.
        self.serial = ExecChannel()
        self.device = VirtioConsole([Port(port, PORT_NAME, console=False)])
        #: What a protocol's client sends and receives by.
        self.link = ExecLink((self.serial, port))
