"""``pyvmm run --exec``: a command in the guest as if it were a local one."""

from __future__ import annotations

from pyvmm.cli.job import JobControl
from pyvmm.cli.messages import message, write_line
from pyvmm.cli.orders import Orders
from pyvmm.errors import PyvmmError
from pyvmm.exec.client import ExecClient
from pyvmm.exec.request import Request
from pyvmm.exec.runner import PTY_WINDOW, ExecRunner
from pyvmm.guest.exec_devices import ExecDevices
from pyvmm.host.printable import printable
from pyvmm.loop import Loop
from pyvmm.machine.ending import CRASHED, OK, STOPPED, TOLD, Ending
from pyvmm.machine.machine import Machine
from pyvmm.signals import SIGINT, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.cli.in_vm_process import InVmProcess
    from pyvmm.cli.local_terminal import LocalTerminal
    from pyvmm.config import Config
    from pyvmm.guest.control import ControlServer

#: Characters of each line of the console that is shown when the command has not ended.
_LOG_WIDTH = 300
#: Output bytes held for a reader that is slow; the UART takes no more until they are gone.
_CHANNEL_BUFFER = 65536


def run_exec(config: Config, terminal: LocalTerminal, there: InVmProcess) -> None:
    """In the VM process: boot, run ``config.exec``, end the guest, and tell the parent.

    :param terminal: what the command is told of ours
    """
    assert config.exec is not None, "there is a command"
    size = terminal.size
    window = PTY_WINDOW if size else _CHANNEL_BUFFER
    request = Request(["/bin/sh", "-c", config.exec], pty=size, window=window, env=terminal.environment)
    status: list[int] = []
    channel = ExecDevices()
    client = ExecClient(channel.link.send)
    channel.link.receiver = client.receive
    quiet = config.console == "stdio"  # the terminal is the command's
    parent, host_side = there.parent, there.host_side
    console = host_side.console
    with Loop() as loop:

        def exited(code: int) -> None:
            status.append(code)
            machine.end(Ending(OK, "exec", TOLD, f"the command ended with status {code}"))

        def stop(detail: str, reason: str = "stopped") -> None:
            there.stop(machine, orders, Ending(STOPPED, reason, TOLD, detail))

        def signalled(number: int) -> None:
            # The guest's command gets it first; a second one, or a guest that has not
            # answered yet, ends the machine.
            if number == SIGINT and client.ready and not interrupted:
                interrupted.append(number)
                runner.signal(number)
            else:
                stop(f"ended by {name_of(number)}")

        def resized() -> None:
            if size:
                runner.resized()

        def server(name: str) -> ControlServer:
            from pyvmm.cli.served import control_server

            return control_server(
                loop, name, parent.pid, config, lambda: machine, lambda: console, lambda: client
            )

        interrupted: list[int] = []
        orders = Orders(
            loop,
            parent,
            job=JobControl(lambda: machine, parent.link),
            resized=resized,
            signalled=signalled,
            stopped=stop,
            server=server,
        )
        runner = ExecRunner(
            loop,
            client,
            request,
            exited,
            stdin=0,
            stdout=1,
            stderr=2,
        )
        devices = there.enter_sandbox(config, True)
        with Machine(
            config.replace(timeout=None),
            loop=loop,
            console=console,
            channel=channel.serial,
            devices=[channel.device],
            made=devices,
            host_objects=host_side.objects,
        ) as machine:
            there.built(machine)
            if config.timeout is not None:
                late = f"the guest did not end within {config.timeout:g} seconds"
                machine.clock.call_later(config.timeout, lambda: stop(late, "timeout"))
            loop.call_soon(client.connect)
            loop.on_error = lambda error: _failed(machine, error)
            try:
                ending = machine.run()
            finally:
                runner.close()
        host_side.drain()
        if not status and quiet and ending.code != OK:
            _show_log(machine, ending)
        if machine.error is not None and there.debug:
            raise machine.error
        if not status and ending.code == OK:
            # Not the command's success, which is what 0 would say.
            detail = f"{ending.detail} before the command had ended"
            ending = Ending(CRASHED, ending.reason, ending.known, detail)
        orders.ended(ending, host_side, status=status[0] if status else None)


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
