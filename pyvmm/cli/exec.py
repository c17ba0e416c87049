"""``pyvmm run --exec``: a command in the guest as if it were a local one."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial

from pyvmm.backends.base import CharBackend
from pyvmm.backends.spec import make_backend
from pyvmm.cli.manners import announce
from pyvmm.errors import PyvmmError
from pyvmm.exec.runner import PTY_WINDOW, ExecRunner
from pyvmm.exec.session import Request
from pyvmm.loop import Loop
from pyvmm.machine.ending import CRASHED, OK, TOLD, Ending
from pyvmm.machine.machine import Machine
from pyvmm.signals import (
    NAMES,
    SIGCONT,
    SIGHUP,
    SIGINT,
    SIGTERM,
    SIGTSTP,
    SIGWINCH,
    SignalFd,
    heard,
)
from pyvmm.virtio.console.device import VirtioConsole
from pyvmm.virtio.console.port import Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.config import Config

#: The name the guest's init looks for.
PORT_NAME = "pyvmm.exec"
#: Output bytes held for a reader that is slow; the UART takes no more until they are gone.
_CHANNEL_BUFFER = 65536


class Channel(CharBackend):
    """One way to the guest, the other end of COM2 or of a virtio console's port.

    What comes goes to *receiver* in the loop's thread; what is sent waits until the device takes it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.receiver: Callable[[bytes], None] | None = None
        self._loop: Loop | None = None
        self._to_guest = bytearray()
        self._from_guest: list[bytes] = []
        self._scheduled = False

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        """Begin."""
        self._loop, self._receive, self._space = loop, receive, space

    def write(self, data: bytes) -> None:
        """From the guest, in a vCPU's thread."""
        assert self._loop is not None, "attach comes first"
        self._from_guest.append(data)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def send(self, data: bytes) -> None:
        """To the guest, in the loop's thread."""
        self._to_guest += data
        self._push()

    def resume(self) -> None:
        """The port has room; called by any thread."""
        assert self._loop is not None, "attach comes first"
        self._loop.call_soon(self._push)

    def _push(self) -> None:
        while self._to_guest:
            room = self._space()
            if room <= 0:
                return
            if self._receive(bytes(self._to_guest[:room])) is False:
                return
            del self._to_guest[:room]

    def _deliver(self) -> None:
        self._scheduled = False
        pieces, self._from_guest = self._from_guest, []
        if self.receiver is not None and pieces:
            self.receiver(b"".join(pieces))


class Link:
    """Both ways to the guest. Its init answers on one: the port, where its kernel drives it; it is faster."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self.receiver: Callable[[bytes], None] | None = None
        self._channels = list(channels)
        for channel in channels:
            channel.receiver = partial(self._received, channel)

    def send(self, data: bytes) -> None:
        """To the guest: both ways until it has answered."""
        for channel in self._channels:
            channel.send(data)

    def _received(self, channel: Channel, data: bytes) -> None:
        self._channels = [channel]
        if self.receiver is not None:
            self.receiver(data)


def run_exec(config: Config) -> tuple[int | None, Ending]:
    """Boot, run ``config.exec``, end the guest: the command's status (None if it never ended), the ending."""
    assert config.exec is not None, "there is a command"
    size = _terminal_size()
    window = PTY_WINDOW if size else _CHANNEL_BUFFER
    request = Request(["/bin/sh", "-c", config.exec], pty=size, window=window, env=_environment())
    status: list[int] = []
    channel, port = Channel(), Channel()
    link = Link((channel, port))
    quiet = config.console == "stdio"  # the terminal is the command's
    console = CharBackend() if quiet else make_backend(config.console)
    with contextlib.closing(console), Loop() as loop:
        runner: ExecRunner | None = None

        def exited(code: int) -> None:
            status.append(code)
            machine.end(Ending(OK, "exec", TOLD, f"the command ended with status {code}"))

        def forward(number: int) -> None:
            # The guest's command gets it first; a second one, or a guest that has not
            # answered yet, ends the machine.
            if number == SIGINT and runner is not None and runner.session.ready and not interrupted:
                interrupted.append(number)
                runner.signal(number)
            else:
                machine.stop("stopped", f"ended by {NAMES[number]}")

        def resized(number: int) -> None:
            if runner is not None:
                runner.resized()

        def stopped(number: int) -> None:
            if runner is not None and runner.terminal is not None:
                runner.terminal.stop_job()

        def continued(number: int) -> None:
            if runner is not None and runner.terminal is not None:
                runner.terminal.continue_job()

        interrupted: list[int] = []
        handlers = dict.fromkeys(heard(SIGINT, SIGTERM, SIGHUP), forward)
        if size:  # else these have their own effect, or none
            handlers |= {SIGWINCH: resized, SIGTSTP: stopped, SIGCONT: continued}
        with (
            SignalFd(loop, handlers),
            Machine(
                config,
                loop=loop,
                console=console,
                channel=channel,
                devices=[VirtioConsole([Port(port, PORT_NAME, console=False)])],
            ) as machine,
        ):
            runner = ExecRunner(
                loop,
                link.send,
                request,
                exited,
                on_quit=lambda: machine.stop("stopped", "ended by the user"),
            )
            link.receiver = runner.receive
            loop.on_error = lambda error: _failed(machine, error)
            announce(config, console)
            try:
                ending = machine.run()
            finally:
                runner.close()
        if not status and quiet and ending.code != OK:
            _show_log(machine)
        if machine.error is not None and os.environ.get("PYVMM_DEBUG"):
            raise machine.error
    if not status and ending.code == OK:
        # Not the command's success, which is what 0 would say.
        ending = Ending(CRASHED, ending.reason, ending.known, f"{ending.detail} before the command had ended")
    return (status[0] if status else None), ending


def _failed(machine: Machine, error: BaseException) -> None:
    code = error.exit_code if isinstance(error, PyvmmError) else PyvmmError.exit_code
    machine.end(Ending(code, "exec", TOLD, str(error)), error)


def _terminal_size() -> tuple[int, int] | None:
    """(rows, columns) when the command is to have a terminal: ours is one, both ways."""
    if not (os.isatty(0) and os.isatty(1)):
        return None
    size = os.get_terminal_size(0)
    return size.lines, size.columns


def _environment() -> dict[str, str]:
    term = os.environ.get("TERM")
    return {"TERM": term} if term and os.isatty(0) else {}


def _show_log(machine: Machine) -> None:
    """What the guest's console said, when the command never ran: the reason is often there."""
    tail = machine.log.text().splitlines()[-25:]
    if tail:
        sys.stderr.write("\n".join(["pyvmm: the last lines of the guest's console:", *tail, ""]))
