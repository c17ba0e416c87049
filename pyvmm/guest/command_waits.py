"""What ``Guest`` does with commands, as waits (``Watch``): run to the end, run repeatedly, start."""

from __future__ import annotations

import os
import shlex
import time

from pyvmm.exec.request import Request
from pyvmm.guest.commands import STDERR, STDOUT
from pyvmm.guest.errors import CommandError, GuestTimeout
from pyvmm.guest.process import Running
from pyvmm.guest.result import Result
from pyvmm.guest.watch import Until, deadline_of, time_left
from pyvmm.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyvmm.guest.life import Life
    from pyvmm.guest.watch import Waits, Watch

    #: What runs in the guest: a text for ``/bin/sh -c``, or a program and its arguments.
    CommandLine = str | Sequence[str | bytes]

#: Bytes of output that ``run`` collects at most.
OUTPUT_MAX = 256 << 20
#: Seconds between two tries of ``repeat`` and ``listening``.
RETRY = 0.1

_SOCKETS = ["cat", "/proc/net/tcp", "/proc/net/tcp6"]


class CommandWaits:
    """The commands of one guest, whichever machine it has. Parameters are those of ``Guest.run``.

    All raise GuestEnded, NoCommandsError, ExecRequestError, and ConfigError before the guest was started.
    """

    def __init__(self, watch: Watch, life: Life) -> None:
        self._watch = watch
        self._life = life

    def run(
        self,
        command: CommandLine,
        *,
        input: str | bytes | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | int | None = None,
        check: bool = False,
        text: bool = True,
    ) -> Waits[Result[Any]]:
        """Run *command* to its end. Raises GuestTimeout; CommandError for a status, or too much output."""
        name = name_of(command)
        tail = self._life.tail
        deadline = deadline_of(timeout)
        running = yield from self.start(command, env, cwd, user, timeout, OUTPUT_MAX)
        one = running.command
        in_time = True
        try:
            if input:
                raw = input.encode() if isinstance(input, str) else bytes(input)
                in_time = yield from running.writing(raw, deadline)
            one.close_input()
            in_time = in_time and (yield from running.ending(deadline))
        finally:
            if not one.over:
                one.abandon()
        out, err = (bytes(one.output[stream]) for stream in (STDOUT, STDERR))
        status, duration = -1 if one.status is None else one.status, one.ended - one.begun
        result: Result[Any] = Result(status, out, err, one.signal, duration)
        if text:
            texts = out.decode(errors="replace"), err.decode(errors="replace")
            result = Result(status, *texts, one.signal, duration)
        if not in_time:
            raise GuestTimeout(name, timeout or 0.0, tail(), result)
        if one.overflow:
            raise CommandError(
                f"{name}: it wrote more than {format_size(OUTPUT_MAX)}; use spawn and read as it writes",
                result,
                tail(),
            )
        if check and result.status:
            raise CommandError(f"{name}: {_how(result)}", result, tail())
        return result

    def repeat(
        self, command: CommandLine, timeout: float | None, options: dict[str, Any], *, succeeds: bool
    ) -> Waits[Result[Any]]:
        """Run *command* repeatedly until its status is 0, or with *succeeds* false until it is not 0.

        Raises GuestTimeout, and CommandError for too much output.
        """
        deadline = deadline_of(timeout)
        result: Result[Any] | None = None
        while True:
            try:
                result = yield from self.run(command, timeout=time_left(deadline), check=False, **options)
            except GuestTimeout as error:
                wanted = "succeed" if succeeds else "fail"
                raise GuestTimeout(
                    f"{name_of(command)} was to {wanted}",
                    timeout or 0.0,
                    self._life.tail(),
                    result or error.result,
                ) from None
            if (result.status == 0) == succeeds:
                return result
            yield self._pause()

    def start(
        self,
        command: CommandLine,
        env: Mapping[str, str] | None,
        cwd: str | None,
        user: str | int | None,
        timeout: float | None,
        output_max: int = 0,
    ) -> Waits[Running]:
        """Start *command*, with *output_max* as ``Commands.start`` has it.

        A guest that still boots gets *timeout* seconds. Raises GuestTimeout.
        """
        name = name_of(command)
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        request = Request(argv, env=env, cwd=cwd, user=user)
        commands = yield from self._life.ready(name, deadline_of(timeout), timeout)
        return Running(self._watch, commands, commands.start(request, output_max), name, self._life.tail)

    def listening(self, port: int, timeout: float | None) -> Waits[None]:
        """Wait until a program listens on TCP port *port*. Raises GuestTimeout, CommandError."""
        name = f"a program was to listen on port {port}"
        deadline = deadline_of(timeout)
        yield from self._life.ready(name, deadline, timeout)
        # Of proc_pid_net(5): a line a socket, its address ADDRESS:PORT and its state in hexadecimal digits.
        wanted, listening = f":{port:04X}", "0A"
        while True:
            try:
                sockets = yield from self.run(_SOCKETS, timeout=time_left(deadline))
            except GuestTimeout:
                raise GuestTimeout(name, timeout or 0.0, self._life.tail()) from None
            rows = [line.split() for line in sockets.stdout.splitlines()]
            if any(len(row) > 3 and row[1].endswith(wanted) and row[3] == listening for row in rows):
                return
            yield self._pause()

    def _pause(self) -> Until:
        return Until(lambda: self._life.ending, time.monotonic() + RETRY)


def name_of(command: CommandLine) -> str:
    """The command as a message has it."""
    words = command if isinstance(command, str) else shlex.join(os.fsdecode(word) for word in command)
    return words if len(words) <= 200 else f"{words[:197]}..."


def _how(result: Result[Any]) -> str:
    return f"ended by signal {result.signal}" if result.signal else f"status {result.status}"
