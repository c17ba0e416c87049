"""A running guest reached from another process, by its control socket."""

from __future__ import annotations

import json
import select
import time

from pyvmm.errors import StartError
from pyvmm.guest.registry import NoAnswerError, connect
from pyvmm.guest.stream import Stream
from pyvmm.host.printable import printable

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

    def stream(self, loop: Loop, receive: Callable[[bytes], object], on_end: Callable[[], object]) -> Stream:
        """The bytes after the answer, both ways: *receive* gets what comes."""
        stream = Stream(loop, self.socket, receive, on_end)
        if self.rest:
            rest = bytes(self.rest)
            loop.call_soon(lambda: receive(rest))
        return stream
