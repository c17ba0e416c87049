"""The exec channel of one machine: the devices it is given for it, and the protocol's client behind them."""

from __future__ import annotations

from pyvmm.errors import PyvmmError
from pyvmm.exec.channel import PORT_NAME, ExecChannel, ExecChannelError, ExecLink
from pyvmm.exec.client import ExecClient
from pyvmm.virtio.console.device import VirtioConsole
from pyvmm.virtio.console.port import Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class ExecPort:
    """Made anew for each machine. A guest that breaks the protocol's rules, or asks for more and more and
    reads nothing, ends ``client``: every command is told, and no caller of ``client`` gets the exception.

    :param changed: called when ``ready`` or ``error`` has changed. Loop's thread
    """

    def __init__(self, changed: Callable[[], object] | None = None) -> None:
        #: Whether the guest's server has answered.
        self.ready = False
        #: Why commands cannot be run although the guest answers: it does not keep to our protocol.
        self.error: PyvmmError | None = None
        port = ExecChannel()
        #: For the machine: the backend of its second serial port, and the device of the faster way.
        self.serial = ExecChannel()
        self.device = VirtioConsole([Port(port, PORT_NAME, console=False)])
        self._changed = changed
        self._link = ExecLink((self.serial, port))
        self._link.receiver = self._receive
        self.client = ExecClient(self._send, on_ready=self._on_ready)

    def _on_ready(self) -> None:
        self.ready = True
        self._tell()

    def _send(self, data: bytes) -> None:
        if self.error is not None:
            return
        try:
            self._link.send(data)
        except ExecChannelError as error:
            self.error = error
            assert self.serial.loop is not None, "what is sent has a loop"
            # Not here: the client may be in the middle of something.
            self.serial.loop.call_soon(self._failed)

    def _receive(self, data: bytes) -> None:
        if self.error is not None:
            return
        try:
            self.client.receive(data)
        except PyvmmError as error:
            self.error = error
            self._failed()

    def _failed(self) -> None:
        self.client.disconnect(str(self.error))
        self._tell()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()
