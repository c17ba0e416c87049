"""``pyvmm run --exec``: a command in the guest as if it were a local one."""

from __future__ import annotations

import contextlib
import os

from pyvmm.backends.base import CharBackend
from pyvmm.backends.spec import make_backend
from pyvmm.cli.job import JobControl
from pyvmm.cli.local_terminal import environment, terminal_size
from pyvmm.cli.messages import announce, message, write_line
from pyvmm.errors import PyvmmError
from pyvmm.exec.channel import PORT_NAME, ExecChannel, ExecLink
from pyvmm.exec.client import ExecClient
from pyvmm.exec.request import Request
from pyvmm.exec.runner import PTY_WINDOW, ExecRunner
from pyvmm.host.printable import printable
from pyvmm.loop import Loop
from pyvmm.machine.ending import CRASHED, OK, TOLD, Ending
from pyvmm.machine.machine import Machine
from pyvmm.signals import ENDING, SIGINT, SIGWINCH, SignalFd, heard, name_of
from pyvmm.virtio.console.device import VirtioConsole
from pyvmm.virtio.console.port import Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.cli.served import Served
    from pyvmm.config import Config

#: Characters of each line of the console that is shown when the command has not ended.
_LOG_WIDTH = 300
#: Output bytes held for a reader that is slow; the UART takes no more until they are gone.
_CHANNEL_BUFFER = 65536


def run_exec(config: Config, named: bool, warned: bool, control_delay: float) -> tuple[int | None, Ending]:
    """Boot, run ``config.exec``, end the guest: the command's status (None if it never ended), the ending.

    :param named: whether the guest's name is the user's choice. Raises NameTakenError
    :param warned: whether ``warn_of_kernel`` was called for this guest
    :param control_delay: seconds from the start until other processes can reach the guest
    """
    assert config.exec is not None, "there is a command"
    size = terminal_size()
    window = PTY_WINDOW if size else _CHANNEL_BUFFER
    request = Request(["/bin/sh", "-c", config.exec], pty=size, window=window, env=environment())
    status: list[int] = []
    channel, port = ExecChannel(), ExecChannel()
    link = ExecLink((channel, port))
    client = ExecClient(link.send)
    link.receiver = client.receive
    quiet = config.console == "stdio"  # the terminal is the command's
    console = CharBackend() if quiet else make_backend(config.console)
    with contextlib.closing(console), Loop() as loop:
        runner: ExecRunner | None = None
        served: Served | None = None
        if named:
            served = _served(loop, config, client, named)

        def exited(code: int) -> None:
            status.append(code)
            machine.end(Ending(OK, "exec", TOLD, f"the command ended with status {code}"))

        def forward(number: int) -> None:
            # The guest's command gets it first; a second one, or a guest that has not
            # answered yet, ends the machine.
            if number == SIGINT and runner is not None and client.ready and not interrupted:
                interrupted.append(number)
                runner.signal(number)
            else:
                machine.stop("stopped", f"ended by {name_of(number)}")

        def resized(number: int) -> None:
            if runner is not None:
                runner.resized()

        job = JobControl(lambda: machine, lambda: runner.terminal if runner is not None else None)

        def serve() -> None:
            nonlocal served
            served = served or _served(loop, config, client, False)
            served.uses(machine, console)
            served.serve()

        interrupted: list[int] = []
        handlers = {**dict.fromkeys(heard(*ENDING), forward), **job.handlers()}
        if size:
            handlers[SIGWINCH] = resized
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
            loop.call_soon(client.connect)
            runner = ExecRunner(
                loop,
                client,
                request,
                exited,
                stdin=0,
                stdout=1,
                stderr=2,
                on_quit=lambda: machine.stop("stopped", "ended by the user"),
            )
            loop.on_error = lambda error: _failed(machine, error)
            announce(config, console, warn=not warned)
            loop.call_later(control_delay, serve)
            try:
                ending = machine.run()
            finally:
                runner.close()
                if served is not None:
                    served.close(machine.ending)
        if not status and quiet and ending.code != OK:
            _show_log(machine, ending)
        if machine.error is not None and os.environ.get("PYVMM_DEBUG"):
            raise machine.error
    if not status and ending.code == OK:
        # Not the command's success, which is what 0 would say.
        ending = Ending(CRASHED, ending.reason, ending.known, f"{ending.detail} before the command had ended")
    return (status[0] if status else None), ending


def _served(loop: Loop, config: Config, client: ExecClient, named: bool) -> Served:
    from pyvmm.cli.served import Served  # what it loads costs more than the start of a small guest

    served = Served(loop, config, named)
    served.commands = lambda: client
    return served


def _failed(machine: Machine, error: BaseException) -> None:
    code = error.exit_code if isinstance(error, PyvmmError) else PyvmmError.exit_code
    machine.end(Ending(code, "exec", TOLD, str(error)), error)


def _show_log(machine: Machine, ending: Ending) -> None:
    """What the guest's console printed, when the command has not ended: the reason is often there."""
    from pyvmm.guest.errors import last_lines

    tail = last_lines(machine.log.text(), ending.reason == "panic")
    if tail:
        message("the last lines of the guest's console:")
    for line in tail:
        write_line(printable(line, _LOG_WIDTH))
