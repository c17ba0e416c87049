"""The exec protocol's client of one machine."""

from __future__ import annotations

from pyvmm.errors import PyvmmError
from pyvmm.exec.channel import ExecChannelError
from pyvmm.exec.client import ExecClient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.exec.channel import ExecLink
    from pyvmm.guest.exec_socket import ExecSocket


class ExecPort:
    """Made anew for each machine. A guest that breaks the protocol's rules, or asks for more and more and
    reads nothing, ends ``client``: every command is told, and no caller of ``client`` gets the exception.

    :param link: the way to the guest
    :param changed: called when ``ready`` or ``error`` has changed. Loop's thread
    """

    def __init__(self, link: ExecLink | ExecSocket, changed: Callable[[], object] | None = None) -> None:
        #: Whether the guest's server has answered.
        self.ready = False
        #: Why commands cannot be run although the guest answers: it does not keep to our protocol.
        self.error: PyvmmError | None = None
        self._changed = changed
        self._link = link
        link.receiver = self._receive
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
            self._link.call_soon(self._failed)  # not here: the client may be in the middle of something

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
