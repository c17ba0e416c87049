"""The connection to a vhost-user back end that is a program which this process starts and ends."""

from __future__ import annotations

import os

from pyvmm.host import opened
from pyvmm.host.notice import notice
from pyvmm.host.printable import printable
from pyvmm.loop import READ
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.vhost.back_end_connection import BackEndConnection
from pyvmm.virtio.vhost.frontend import VhostUser

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pyvmm.host.child import Child

#: Seconds it gets to end by itself once its connection is closed.
GRACE = 2.0
#: Bytes kept of what it wrote to its standard error and was not reported.
_SAID = 4096


class HelperConnection(BackEndConnection):
    """A program that *start* starts, called *place* and *program* in messages.

    A VM process has it from its parent, which started it, starts it again before the guest's next machine
    where it has ended, and ends it.

    :param start: starts it, with a descriptor for what it writes; a connection to it, and its process
    """

    def __init__(self, start: Callable[[int], tuple[socket.socket, Child]], place: str, program: str) -> None:
        super().__init__(self._connection, place)
        #: What it writes to its standard error: a pipe, -1 when it is closed.
        self.errors = -1
        #: The end of that, which was not reported.
        self.said = b""
        self.process: Child | None = None
        self._begin = start
        self._program = program
        self._started = False
        #: The process that started it.
        self._starter = 0

    def connect(self) -> None:
        """Start it and connect to it. Idempotent.

        Raises DeviceError when it does not start, and what *start* raises.
        """
        try:
            super().connect()
        except DeviceError as error:
            raise self.failure(error) from None
        except BaseException:
            self._end_process()
            raise

    def reopen(self) -> None:
        """Start it again where it has ended or the connection to it is over. Raises as ``open``."""
        ended = self.process is not None and self.process.wait(0) is not None
        if ended or self.hung_up:
            self.close()
            self.open()

    def failure(self, error: DeviceError) -> DeviceError:
        """Why it is of no use, which has been seen as *error*; it is ended, if it was started."""
        self.close()
        started, self._started = self._started, False
        if not started:
            return error
        why = printable(self.said) or str(error).removeprefix(f"{self.place}: ")
        return DeviceError(f"{self.place}: {self._program} does not start: {why}")

    def _connection(self) -> socket.socket:
        return self.start()

    def start(self) -> socket.socket:
        """Start it; a connection to it. Raises what *start* raises."""
        self._end_process()  # of a connection before
        self.errors, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            sock, self.process = self._begin(writer)
            self._started, self._starter = True, os.getpid()
        finally:
            os.close(writer)
        return sock

    def close(self) -> None:
        """End the connection, and wait for the program to end. Idempotent."""
        super().close()
        self._end_process()

    def _end_process(self) -> None:
        """Wait for it to end, as its connection is closed; read what it wrote last. Idempotent.

        In a process that was forked since it was started, another one waits for it. In its
        sandbox a process waits for none, which is refused there: it ends with its connection.
        """
        process, self.process = self.process, None
        if process is not None and self._starter == os.getpid() and not opened.gave_up:
            process.end(GRACE)
        if self.errors >= 0:
            while self.read_errors():
                pass
            os.close(self.errors)
            self.errors = -1

    def read_errors(self) -> bool:
        """Read some of what it wrote; False when there is no more, for now or for good."""
        try:
            data = os.read(self.errors, _SAID)
        except BlockingIOError:
            return False
        self.said = (self.said + data)[-_SAID:]
        return bool(data)


class HelperDevice(VhostUser):
    """A device that a program serves; what that writes to its standard error is reported."""

    connection: HelperConnection

    def attached(self) -> None:
        """Report what the program writes to its standard error."""
        super().attached()
        self.runtime.loop.add(self.connection.errors, READ, self._report)

    def close(self) -> None:
        """Let go of the program, which ends with its connection."""
        if self._watching and self.connection.errors >= 0:
            self.runtime.loop.remove(self.connection.errors)
        super().close()

    def _report(self, _: int) -> None:
        """Report the lines that it wrote, at a limited rate."""
        program = self.connection
        if not program.read_errors():
            self.runtime.loop.remove(program.errors)
        *lines, program.said = program.said.split(b"\n")
        for line in lines:
            notice(f"{program.place} says", f"{program.place}: {printable(line)}")
