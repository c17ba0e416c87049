"""The control socket of a running guest: what other processes of this user ask of it.

A connection begins with one line of JSON, ``{"verb": ...}``, and is answered by one, with ``"error"``
where that cannot be done. Then:

- ``info``: the answer tells of the guest, and the connection ends
- ``stop``: the power button is pressed; after ``timeout`` seconds the guest is stopped. The line
  ``{"ending": ...}`` comes at its end
- ``console``: what the console showed lately, and from then on bytes both ways
- ``exec``: the exec protocol (docs/internals/exec-protocol.md), with this end as the guest

All runs in the machine's loop. Each request is bounded: the line's length and time, connections, what waits
to be sent; who takes too little of it is disconnected.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from _thread import allocate_lock

from pyvmm.errors import PyvmmError
from pyvmm.guest.relay import ExecRelay
from pyvmm.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.backends.base import Detached
    from pyvmm.config import Config
    from pyvmm.exec.client import ExecClient
    from pyvmm.guest.vm_machine import VmMachine
    from pyvmm.loop import Loop, Timer
    from pyvmm.machine.ending import Ending
    from pyvmm.machine.machine import Machine

#: Connections at a time; more are closed at once.
CLIENTS_MAX = 64
#: Bytes of the first line, and seconds in which it comes.
LINE_MAX = 4096
LINE_PATIENCE = 5.0
#: Bytes that wait for a client to take them; one more and it is disconnected.
UNSENT_MAX = 4 << 20
#: Seconds that clients get at the guest's end to take what waits for them, all together.
LAST_PATIENCE = 0.2
#: Bytes of the console that an attaching client is shown.
RECENT = 16384
#: Typed bytes that wait for the guest; a client's others wait in its socket.
TYPED_MAX = 4096
#: Seconds until a client is looked at again whose input the guest did not take.
TYPED_RETRY = 0.05
#: Seconds that ``stop`` waits at most.
STOP_MAX = 3600.0

_CHUNK = 16384


class Target:
    """The guest that a control socket is for. The functions are called in the loop's thread.

    :param pid: the process to be known by
    :param machine: the machine of now
    :param commands: the exec protocol's client, or why there is none
    :param console: the console to attach to, or why there is none
    """

    def __init__(
        self,
        name: str,
        pid: int,
        config: Config,
        machine: Callable[[], Machine | VmMachine],
        commands: Callable[[], ExecClient | str],
        console: Callable[[], Detached | str],
    ) -> None:
        self.name = name
        self.pid = pid
        self.config = config
        self.machine = machine
        self.commands = commands
        self.console = console
        self.begun = time.monotonic()

    def info(self) -> dict[str, object]:
        """What ``pyvmm ps`` tells."""
        machine = self.machine()
        state = "ended" if machine.ending is not None else "paused" if machine.paused else "running"
        return {
            "name": self.name,
            "pid": self.pid,
            "memory": self.config.memory_size,
            "cpus": self.config.cpus,
            "state": state,
            "uptime": round(time.monotonic() - self.begun, 3),
        }


class ControlServer:
    """Serves connections of processes of this user, which a ``ControlListener`` accepts.

    Made and closed in the loop's thread, or while the loop does not run.
    """

    def __init__(self, loop: Loop, target: Target) -> None:
        self.loop = loop
        self.target = target
        self._clients: set[_Client] = set()
        self._closed = False

    def close(self, ending: Ending | None = None) -> None:
        """Tell who waits for the *ending*, and hang up. Idempotent.

        After the guest's name was given up: whoever is told of the end may take it.
        """
        self._closed = True
        deadline = time.monotonic() + LAST_PATIENCE
        for client in tuple(self._clients):
            client.ended(ending, deadline)

    def forget(self, client: _Client) -> None:
        """*client* has closed."""
        self._clients.discard(client)

    def serve(self, fd: int) -> None:
        """Serve the connection *fd*, which becomes the server's, unless there are too many. Loop's thread."""
        if self._closed or len(self._clients) >= CLIENTS_MAX:
            os.close(fd)
        else:
            self._clients.add(_Client(self, socket.socket(fileno=fd)))


class _Client:
    """One connection."""

    def __init__(self, server: ControlServer, link: socket.socket) -> None:
        self._server = server
        self._loop = server.loop
        self._link = link
        self._unsent = bytearray()
        self._events = READ
        self._line = bytearray()
        self._receive: Callable[[bytes], None] = self._first
        self._on_close: Callable[[], object] | None = None  # ends what the verb began
        self._follower: _Follower | None = None
        self._held = b""  # typed, and for the console when that has less to wait for
        self._open = True
        link.setblocking(False)
        self._loop.add(link.fileno(), READ, self._ready)
        self._patience: Timer = self._loop.call_later(LINE_PATIENCE, self.close)

    def close(self) -> None:
        """Hang up. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._patience.cancel()
        self._loop.remove(self._link.fileno())
        self._link.close()
        self._server.forget(self)
        if self._on_close is not None:
            self._on_close()

    def ended(self, ending: Ending | None, deadline: float) -> None:
        """The guest has ended, and the loop does not run: send what waits until *deadline*, then hang up."""
        if self._follower is not None:
            self._follower.pass_on()
        if ending is not None and self._receive == self._ignore:
            self._answer({"ending": ending.record()})
        if not self._open:
            return  # it took too little, and more waited than may
        poll = select.poll()
        poll.register(self._link, select.POLLOUT)
        while self._unsent and poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            before = len(self._unsent)
            self._flush()
            if len(self._unsent) == before:
                break
        self.close()

    def send(self, data: bytes) -> None:
        """Send, or keep until it is taken."""
        if not self._open:
            return
        self._unsent += data
        self._flush()
        if len(self._unsent) > UNSENT_MAX:
            self.close()

    def _flush(self) -> None:
        try:
            while self._unsent:
                sent = self._link.send(memoryview(self._unsent)[:UNSENT_MAX])
                del self._unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._loop.call_soon(self.close)  # not here: whoever sends may be in the middle of something
            return
        self._watch((self._events & READ) | (WRITE if self._unsent else 0))

    def _watch(self, events: int) -> None:
        if self._open and events != self._events:
            self._events = events
            self._loop.modify(self._link.fileno(), events)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if not events & ~WRITE or not self._open:
            return
        try:
            data = self._link.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            self._receive(data)
        except PyvmmError:  # breaks the protocol's rules
            self.close()

    def _answer(self, answer: dict[str, Any]) -> None:
        self.send(json.dumps(answer).encode() + b"\n")

    # The first line

    def _first(self, data: bytes) -> None:
        self._line += data
        line, newline, rest = bytes(self._line).partition(b"\n")
        if not newline:
            if len(line) > LINE_MAX:
                self.close()
            return
        self._patience.cancel()
        try:
            request = json.loads(line[:LINE_MAX])
            verb = {"info": self._info, "stop": self._stop, "console": self._console, "exec": self._exec}[
                request["verb"]
            ]
        except (ValueError, RecursionError, TypeError, KeyError):
            self._answer({"error": "this pyvmm does not know the request"})
            self.close()
            return
        self._receive = self._ignore
        error = verb(request)
        if error:
            self._answer({"error": error})
            self.close()
        elif rest and self._open:
            self._receive(rest)

    def _ignore(self, data: bytes) -> None:
        """Nothing more is expected."""

    def _info(self, request: dict[str, Any]) -> str | None:
        self._answer(self._server.target.info())
        self.close()
        return None

    def _stop(self, request: dict[str, Any]) -> str | None:
        timeout = request.get("timeout", 0)
        if not isinstance(timeout, int | float) or not 0 <= timeout <= STOP_MAX:
            return f"a time from 0 to {STOP_MAX:g} seconds is needed"
        machine = self._server.target.machine()
        if timeout:
            machine.power_button()
        timer = self._loop.call_later(
            timeout, lambda: self._server.target.machine().stop("stopped", "stopped by pyvmm stop")
        )
        self._on_close = timer.cancel
        self._answer({"pressed": bool(timeout)})
        return None

    # A terminal

    def _console(self, request: dict[str, Any]) -> str | None:
        console = self._server.target.console()
        if isinstance(console, str):
            return console
        self._answer({"attached": True})
        self.send(self._server.target.machine().log.text().encode()[-RECENT:])
        follower = self._follower = _Follower(self._loop, self.send)
        console.observe(follower.feed)
        self._on_close = lambda: console.forget(follower.feed)
        self._receive = lambda data: self._typed(console, data)
        return None

    def _typed(self, console: Detached, data: bytes) -> None:
        if console.pending <= TYPED_MAX:
            console.send(data)
        elif self._held:
            return  # the client has hung up, else it would not be read: what it typed goes with it
        else:  # another client, or one that has hung up, typed too much
            self._held = data
        if console.pending + len(data) > TYPED_MAX:
            self._watch(self._events & ~READ)
            self._loop.call_later(TYPED_RETRY, lambda: self._retry(console))

    def _retry(self, console: Detached) -> None:
        if not self._open:
            return
        if console.pending > TYPED_MAX:
            self._loop.call_later(TYPED_RETRY, lambda: self._retry(console))
            return
        self._watch(self._events | READ)
        if self._held:
            data, self._held = self._held, b""
            self._typed(console, data)

    # A command

    def _exec(self, request: dict[str, Any]) -> str | None:
        client = self._server.target.commands()
        if isinstance(client, str):
            return client
        self._answer({"commands": True})
        relay = ExecRelay(self._loop, client, self.send, lambda reason: self._loop.call_soon(self.close))
        self._on_close = relay.close
        self._receive = relay.receive
        return None


class _Follower:
    """Brings console output from the vCPUs' threads to the loop's, for one client."""

    def __init__(self, loop: Loop, send: Callable[[bytes], object]) -> None:
        self._loop = loop
        self._send = send
        self._lock = allocate_lock()
        self._output = bytearray()

    def feed(self, data: bytes) -> None:
        """Output, in a vCPU's thread."""
        with self._lock:
            first = not self._output
            if len(self._output) <= UNSENT_MAX:  # else the client is disconnected anyway
                self._output += data
        if first:
            self._loop.call_soon(self.pass_on)

    def pass_on(self) -> None:
        """What came, to the client. Loop's thread, or when the loop is over."""
        with self._lock:
            data, self._output = bytes(self._output), bytearray()
        self._send(data)
