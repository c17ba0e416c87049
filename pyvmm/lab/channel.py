"""A channel of an emulated host from below: the exec protocol over the socket QEMU listens on."""

from __future__ import annotations

import select
import socket
import time

from pyvmm.exec.channel import UNSENT_MAX
from pyvmm.exec.client import ExecClient
from pyvmm.exec.request import Request
from pyvmm.lab.errors import LabLostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from pyvmm.exec.client import Run

_READ_SIZE = 1 << 16


class LabChannel:
    """One connection to one channel; a context manager.

    ``receive`` gives what has arrived to ``client``; ``flush`` sends what that has to say and keeps what
    the socket does not take yet. Raises LabLostError when the host has ended.
    """

    def __init__(self, path: Path) -> None:
        #: Whether the host answered: from then on a command may have begun.
        self.greeted = False
        self._unsent = bytearray()
        self.client = ExecClient(self._send, on_ready=self._ready)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self.socket.connect(str(path))
        except OSError as error:
            self.socket.close()
            raise LabLostError(
                f"the emulated host's channel {path} cannot be opened: {error.strerror}"
            ) from error
        self.socket.setblocking(False)
        self.client.connect()

    def __enter__(self) -> LabChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the commands that run are killed inside."""
        self.socket.close()

    def flush(self) -> bool:
        """Send what can be sent now; True when something is left, to be sent when writable.

        Raises LabLostError when the host has ended.
        """
        if self._unsent:
            try:
                del self._unsent[: self.socket.send(self._unsent)]
            except BlockingIOError:
                pass
            except OSError as error:
                raise LabLostError(f"the emulated host ended: {error.strerror}") from error
        return bool(self._unsent)

    def receive(self) -> None:
        """Take what has arrived. Raises LabLostError when the host is gone."""
        try:
            data = self.socket.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            raise LabLostError(f"the emulated host ended: {error.strerror}") from error
        if not data:
            raise LabLostError("the emulated host ended while a command was running on it")
        self.client.receive(data)

    def call(self, argv: list[str], limit: float) -> tuple[int, bytes]:
        """Run *argv* in the host's own root; its status and output.

        Raises LabLostError when it takes more than *limit* seconds.
        """
        output = bytearray()

        def take(run: Run, data: bytes) -> None:
            output.extend(data)
            run.consumed(len(data))

        run = self.client.start(Request(argv), on_stdout=take, on_stderr=take)
        poller = select.poll()
        deadline = time.monotonic() + limit
        while run.status is None:
            left = self.flush()
            poller.register(self.socket, select.POLLIN | (select.POLLOUT if left else 0))
            wait = deadline - time.monotonic()
            if wait <= 0 or not poller.poll(wait * 1000):
                raise LabLostError(f"the emulated host did not answer within {limit:g} s")
            self.receive()
            if run.error is not None:
                raise LabLostError("the emulated host's init restarted under a command")
        return run.status, bytes(output)

    def _send(self, data: bytes) -> None:
        if len(self._unsent) + len(data) > UNSENT_MAX:
            raise LabLostError(
                "the emulated host asks for more on its channel and has left "
                f"{UNSENT_MAX >> 20} MiB unread; start another one with --fresh"
            )
        self._unsent += data

    def _ready(self) -> None:
        self.greeted = True
