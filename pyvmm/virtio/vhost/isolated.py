"""``--device CLASS,isolated``: a device of the user's in a process of its own, which is confined.

The process is started as helpers are and serves the device by vhost-user over a socket pair. Before the
protocol begins it tells in one line of JSON what the device is, which the protocol has no message for.

The parent of a VM process starts it and waits for nothing that it says: the VM process reads the line, while
the parent can be told to end both. The one of the guest's next machine has the line from the one before.
"""

from __future__ import annotations

import json
import os
import socket
import time
from functools import partial

from pyvmm.errors import ConfigError, StartError
from pyvmm.host import interpreter
from pyvmm.host.child import Child, spawn
from pyvmm.host.notice import notice
from pyvmm.host.printable import printable
from pyvmm.host.sandbox import KILL
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.ring.queue import MAX_SIZE
from pyvmm.virtio.vhost.back_end_connection import is_over
from pyvmm.virtio.vhost.frontend import MAX_QUEUES
from pyvmm.virtio.vhost.helper_connection import HelperConnection, HelperDevice
from pyvmm.virtio.vhost.user_protocol import MAX_CONFIG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pyvmm.virtio.vhost.channel import Channel

#: Seconds that the device's class gets to be loaded and made.
PATIENCE = 60.0
#: Bytes of the line.
MOST = 64 << 10
#: Characters of an error of its class.
_SENTENCE = 1000
#: Bytes of the number of a process.
_NUMBER = 4
_HIGHEST_ID = 0xFFFF_FFFF
_SERVER = "pyvmm.virtio.vhost.server.isolated"


class IsolatedProcess(HelperConnection):
    """The process of a device of class *text*, made with *given*."""

    def __init__(self, text: str, given: Mapping[str, str | bool]) -> None:
        super().__init__(partial(_start, text, dict(given)), f"--device {text}", "its process")
        #: What it says it is, once it is connected: identifier, name, sizes of queues, bytes of config.
        self.identity: tuple[int, str, tuple[int, ...], int] = (0, "", (), 0)
        self._line = b""  # which says that; empty until it is read
        self._fresh: socket.socket | None = None  # the connection, before the protocol begins
        self._boots = False  # whether a machine before this one's process had it

    def open(self) -> None:
        """Start it. Idempotent until ``close``. Raises DeviceError when the host gives no process.

        Also where its parent has started the one that has gone: what a VM process starts, nobody could end.
        """
        if self._fresh is None and self._channel is None:
            if self.process is not None and self._starter != os.getpid():
                raise DeviceError(
                    f"{self.place}: its process cannot be reached any more; start the guest again"
                )
            self._line = b""
            self._fresh = super().start()

    def start(self) -> socket.socket:
        """The connection, once it has told what it is. Raises ConfigError, DeviceError, StartError."""
        self.open()
        sock, self._fresh = self._fresh, None
        assert sock is not None, "open has made it"
        try:
            first = not self._line
            self._line = self._line or _line(sock)
            self.identity = self._identified(first)
        except BaseException:
            sock.close()
            raise
        return sock

    def next(self) -> Channel:
        """As of any back end; it is reset where a machine of another process had it before."""
        boots, self._boots = self._boots, False
        channel = super().next()
        if boots:
            channel.renew()
        return channel

    @property
    def hung_up(self) -> bool:
        """Whether the connection is over, on whichever side."""
        return super().hung_up or (self._fresh is not None and is_over(self._fresh.fileno()))

    def left(self) -> tuple[bytes, int]:
        """What it has told, and which process that was."""
        number = 0 if self.process is None else self.process.pid
        return number.to_bytes(_NUMBER, "little") + self._line, -1

    def give(self, left: bytes, fd: int) -> None:
        """Nothing of a process that has been replaced."""
        number, line = int.from_bytes(left[:_NUMBER], "little"), left[_NUMBER:]
        if line and self.process is not None and number == self.process.pid:
            self._line, self._boots = line, True

    def close(self) -> None:
        """End the connection, and wait for the process to end. Idempotent."""
        fresh, self._fresh = self._fresh, None
        if fresh is not None:
            fresh.close()
        super().close()

    def _identified(self, first: bool) -> tuple[int, str, tuple[int, ...], int]:
        """What the line says, checked; *first*: what its sandbox lacks is to be told."""
        told = _told(self._line)
        if "error" in told:
            kind = ConfigError if told.get("code") == ConfigError.exit_code else StartError
            raise kind(printable(str(told["error"]), _SENTENCE))
        try:
            identifier, name = int(told["device_id"]), str(told["name"])
            sizes = tuple(map(int, told["queue_sizes"]))
            config = int(told["config"])
            lacking = [printable(str(step)) for step in told["lacking"]]
        except (KeyError, TypeError, ValueError):
            raise DeviceError("it does not say what it is") from None
        fits = all(0 < size <= MAX_SIZE and not size & (size - 1) for size in sizes)
        right = 0 < identifier <= _HIGHEST_ID and name.replace("-", "_").isidentifier()
        if not fits or not right or not len(sizes) <= MAX_QUEUES or not 0 <= config <= MAX_CONFIG:
            raise DeviceError("what it says it is cannot be a device")
        if lacking and first:
            steps = "; ".join(lacking)
            notice("isolated device", f"{self.place}: this host lacks a part of its sandbox: {steps}")
        return identifier, name, sizes, config


class IsolatedDevice(HelperDevice):
    """The device that *process* serves, as its class declares it.

    Raises ConfigError and StartError with what that process says is wrong, DeviceError when it does not
    start.
    """

    def __init__(self, process: IsolatedProcess) -> None:
        process.connect()
        identifier, name, sizes, config = process.identity
        try:
            super().__init__(process, identifier, name, queues=len(sizes), config_size=config)
        except DeviceError as error:
            raise process.failure(error) from None
        self.queue_sizes = sizes


def _start(text: str, given: dict[str, str | bool], errors: int) -> tuple[socket.socket, Child]:
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            command = interpreter.command(_SERVER, {"class": text, "arguments": given})
            keep = [name for name in ("PYVMM_DEBUG", KILL) if name in os.environ]
            return ours, spawn(command, fds=[theirs.fileno()], output=errors, errors=errors, keep=keep)
        except OSError as error:
            ours.close()
            raise DeviceError(
                f"--device {text}: no process can be started for it: {error.strerror or error}"
            ) from None


def _line(sock: socket.socket) -> bytes:
    """The line that the process begins with. Raises DeviceError."""
    line, end = b"", time.monotonic() + PATIENCE
    while not line.endswith(b"\n"):
        sock.settimeout(max(end - time.monotonic(), 0.001))
        try:
            data = sock.recv(1)  # what follows the line is vhost-user's
        except TimeoutError:
            raise DeviceError(f"it was not ready within {PATIENCE:g} seconds") from None
        except OSError as error:
            raise DeviceError(f"the connection failed: {error.strerror}") from None
        if not data or len(line) > MOST:
            raise DeviceError("it ended before it was ready")
        line += data
    return line


def _told(line: bytes) -> dict[str, Any]:
    """What is in the line. Raises DeviceError."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise DeviceError("it does not say what it is")
    return told
