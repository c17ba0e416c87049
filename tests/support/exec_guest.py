"""A Linux guest and a client of its exec protocol, without ``pyvmm.Guest``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from pyvmm.config import Config
from pyvmm.exec.channel import PORT_NAME, ExecChannel, ExecLink
from pyvmm.exec.client import ExecClient, Run
from pyvmm.exec.request import Request
from pyvmm.machine.machine import Machine
from pyvmm.virtio.console.device import VirtioConsole
from pyvmm.virtio.console.port import Port


class Command:
    """A run in the guest: *source* gives its input in pieces, *sink* takes its output."""

    def __init__(
        self, request: Request, source: Callable[[int], bytes], sink: Callable[[bytes], object] | None
    ) -> None:
        self.request = request
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.run: Run
        self.begun = threading.Event()
        self.ended = threading.Event()
        self._source = source
        self._sink = sink or self.stdout.extend
        self._held = b""
        self._over = False

    def start(self, client: ExecClient) -> None:
        self.run = client.start(
            self.request,
            on_stdout=self._took,
            on_stderr=self._complained,
            on_room=self._feed,
            on_exit=lambda run: self.ended.set(),
        )
        self._feed(self.run)

    def _took(self, run: Run, data: bytes) -> None:
        self._sink(data)
        run.consumed(len(data))
        self.begun.set()

    def _complained(self, run: Run, data: bytes) -> None:
        self.stderr.extend(data)
        run.consumed(len(data))

    def _feed(self, run: Run) -> None:
        while run.room and not self._over:
            self._held = self._held or self._source(65536)
            if self._held:
                self._held = self._held[run.write(self._held) :]
            else:
                self._over = True
                run.eof()


class ExecGuest:
    """A context manager; every wait has a limit in seconds."""

    def __init__(self, config: Config, ports: Sequence[Port] = (), limit: float = 150) -> None:
        self.limit = limit
        serial, port = ExecChannel(), ExecChannel()
        link = ExecLink((serial, port))
        self.ready = threading.Event()
        self.client = ExecClient(link.send, on_ready=self.ready.set)
        link.receiver = self.client.receive
        self.machine = Machine(
            config, channel=serial, devices=[VirtioConsole([Port(port, PORT_NAME, console=False), *ports])]
        )
        self.machine.loop.call_soon(self.client.connect)

    def __enter__(self) -> ExecGuest:
        self.machine.start()
        assert self.ready.wait(self.limit), self.machine.log.text()[-2000:]
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.stop()
        self.machine.wait()
        self.machine.close()

    def start(
        self,
        request: Request,
        stdin: bytes | Callable[[int], bytes] = b"",
        sink: Callable[[bytes], object] | None = None,
    ) -> Command:
        """Start it; *stdin* is bytes, or gives up to so many of them, none at the end."""
        rest = memoryview(stdin) if isinstance(stdin, bytes) else memoryview(b"")

        def next_piece(size: int) -> bytes:
            nonlocal rest
            piece, rest = bytes(rest[:size]), rest[size:]
            return piece

        command = Command(request, next_piece if isinstance(stdin, bytes) else stdin, sink)
        self.machine.loop.call_soon(lambda: command.start(self.client))
        return command

    def finish(self, command: Command) -> tuple[int, bytes, bytes]:
        """Its status, output and error."""
        assert command.ended.wait(self.limit), self.machine.log.text()[-2000:]
        assert command.run.status is not None, command.run.error
        return command.run.status, bytes(command.stdout), bytes(command.stderr)

    def run(self, request: Request, stdin: Any = b"", sink: Any = None) -> tuple[int, bytes, bytes]:
        return self.finish(self.start(request, stdin, sink))
