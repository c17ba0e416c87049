"""A running guest reached from another process, by its control socket."""

from __future__ import annotations

import json
import select
import socket
import time

from pyvmm.errors import StartError
from pyvmm.guest.registry import NoAnswerError, connect
from pyvmm.host.printable import printable
from pyvmm.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.loop import Loop

#: Seconds a process gets to answer: one that begins may have a kernel to unpack first.
PATIENCE = 60.0
#: Bytes of an answer's line at most.
_LINE_MAX = 65536
_CHUNK = 65536


class RefusedError(StartError):
    """The guest's process does not do what it was asked for; its sentence says why."""


class Reached:
    """A connection to the guest *name*. A context manager.

    Raises NoSuchGuestError, NoAnswerError, RegistryError, and ConfigError for a name that none can have.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = connect(name)
        #: What came behind the answer.
        self.rest = bytearray()

    def __enter__(self) -> Reached:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, verb: str, **details: object) -> None:
        """Ask for *verb*."""
        try:
            self.socket.send(json.dumps({"verb": verb, **details}).encode() + b"\n")
        except OSError:
            pass  # gone; its answer will not come

    def answer(self, patience: float | None = PATIENCE) -> dict[str, Any] | None:
        """The next line of the answer, in *patience* seconds (None: no limit); None when the guest has ended.

        Raises NoAnswerError, RefusedError.
        """
        poll = select.poll()  # select() would refuse descriptors from 1024 on
        poll.register(self.socket, select.POLLIN)
        deadline = None if patience is None else time.monotonic() + patience
        while b"\n" not in self.rest:
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not poll.poll(left) or len(self.rest) > _LINE_MAX:
                raise NoAnswerError(f"guest {self.name!r} does not answer; its process hangs or is stopped")
            try:
                data = self.socket.recv(_CHUNK)
            except OSError:
                data = b""
            if not data:
                return None
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise NoAnswerError(f"guest {self.name!r} gives no answer of pyvmm's; end its process")
        if "error" in answer:
            raise RefusedError(f"guest {self.name!r}: {printable(str(answer['error']))}")
        return answer

    def ask(self, verb: str, **details: object) -> dict[str, Any]:
        """Ask and wait for the first line of the answer. Raises NoAnswerError, RefusedError."""
        self.send(verb, **details)
        answer = self.answer()
        if answer is None:
            raise NoAnswerError(f"guest {self.name!r} has just ended")
        return answer


class Stream:
    """The bytes after the answer, both ways, on an event loop.

    *receive* gets what comes, *on_end* is called once when the other end is gone. Loop's thread.
    """

    def __init__(
        self, loop: Loop, reached: Reached, receive: Callable[[bytes], object], on_end: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._socket: socket.socket = reached.socket
        self._receive = receive
        self._on_end = on_end
        self._open = True
        #: Bytes that wait to be sent.
        self.unsent = bytearray()
        self._events = READ
        loop.add(self._socket.fileno(), READ, self._ready)
        if reached.rest:
            rest = bytes(reached.rest)
            loop.call_soon(lambda: receive(rest))

    def send(self, data: bytes) -> None:
        """Send, or keep until it is taken."""
        if self._open:
            self.unsent += data
            self._flush()

    def close(self) -> None:
        """Neither send nor receive any more. Idempotent."""
        if self._open:
            self._open = False
            self._loop.remove(self._socket.fileno())

    def _flush(self) -> None:
        try:
            while self.unsent:
                del self.unsent[: self._socket.send(self.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self.unsent.clear()  # gone: reading finds the end
        events = READ | (WRITE if self.unsent else 0)
        if events != self._events:
            self._events = events
            self._loop.modify(self._socket.fileno(), events)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if not events & ~WRITE:
            return
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._receive(data)
        else:
            self.close()
            self._on_end()
