"""A channel of an emulated host from below: the exec protocol over the socket QEMU listens on."""

from __future__ import annotations

import select
import socket
import time

from pyvmm.exec import session as execproto
from pyvmm.exec.session import ExecSession, Request
from pyvmm.lab.errors import LabLostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from pyvmm.exec.session import Event

_READ_SIZE = 1 << 16


class Channel:
    """One connection to one channel; a context manager.

    What is received comes out of ``receive`` as events of ``ExecSession``; ``flush`` sends
    what the session has to say and keeps what the socket does not take yet.
    """

    def __init__(self, path: Path) -> None:
        self.session = ExecSession()
        #: Whether the host answered: from then on a command may have begun.
        self.greeted = False
        self._unsent = b""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self.socket.connect(str(path))
        except OSError as error:
            self.socket.close()
            raise LabLostError(
                f"the emulated host's channel {path} cannot be opened: {error.strerror}"
            ) from error
        self.socket.setblocking(False)

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; what the session runs is killed inside."""
        self.socket.close()

    def flush(self) -> bool:
        """Send what can be sent now; True when something is left, to be sent when writable."""
        self._unsent += self.session.outgoing()
        if self._unsent:
            try:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
            except BlockingIOError:
                pass
            except OSError as error:
                raise LabLostError(f"the emulated host ended: {error.strerror}") from error
        return bool(self._unsent)

    def receive(self) -> list[Event]:
        """The events of what has arrived. Raises LabLostError when the host is gone."""
        try:
            data = self.socket.recv(_READ_SIZE)
        except BlockingIOError:
            return []
        except OSError as error:
            raise LabLostError(f"the emulated host ended: {error.strerror}") from error
        if not data:
            raise LabLostError("the emulated host ended while a command was running on it")
        events = self.session.feed(data)
        self.greeted = self.greeted or self.session.ready
        return events

    def call(self, argv: list[str], limit: float) -> tuple[int, bytes]:
        """Run *argv* in the host's own root; its status and output.

        Raises LabLostError when it takes more than *limit* seconds.
        """
        self.session.run(Request(argv))
        output = b""
        poller = select.poll()
        deadline = time.monotonic() + limit
        while True:
            left = self.flush()
            poller.register(self.socket, select.POLLIN | (select.POLLOUT if left else 0))
            wait = deadline - time.monotonic()
            if wait <= 0 or not poller.poll(wait * 1000):
                raise LabLostError(f"the emulated host did not answer within {limit:g} s")
            for event, value in self.receive():
                if event in (execproto.STDOUT, execproto.STDERR):
                    assert isinstance(value, bytes)
                    output += value
                    self.session.consumed(len(value))
                elif event == execproto.EXIT:
                    assert isinstance(value, int)
                    return value, output
                elif event == execproto.LOST:
                    raise LabLostError("the emulated host's init restarted under a command")
