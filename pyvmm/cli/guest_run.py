"""A guest of ``pyvmm run`` in its VM process."""

from __future__ import annotations

import os

from pyvmm.backends.spec import make_backend
from pyvmm.cli.job import JobControl
from pyvmm.cli.messages import announce
from pyvmm.cli.orders import Orders
from pyvmm.loop import Loop
from pyvmm.machine.ending import STOPPED, TOLD, Ending
from pyvmm.machine.machine import Machine
from pyvmm.signals import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.backends.base import CharBackend
    from pyvmm.backends.host_objects import HostObjects
    from pyvmm.config import Config
    from pyvmm.exec.client import ExecClient
    from pyvmm.guest.control import ControlServer
    from pyvmm.guest.port import ExecPort
    from pyvmm.sandbox.vm_process import Parent
    from pyvmm.virtio.console.port import Port

#: Seconds from the making of a VM in which closing its last descriptor waits 20 ms: the grace periods
#: of its interrupt controllers (``kvm_destroy_vm`` in Linux virt/kvm/kvm_main.c).
_CLOSES_SLOWLY = 0.03


class GuestRun:
    """One ``pyvmm run`` in its VM process, over all the guest's restarts.

    Signals, which the parent passes on, --timeout and Ctrl-A x end it with code 3.

    :param ours: whether its user space is ours, which runs commands for ``pyvmm exec``
    """

    def __init__(self, config: Config, ours: bool, parent: Parent) -> None:
        self._config = config
        self._ours = ours
        self._parent = parent
        self._orders: Orders
        self._port: ExecPort | None = None
        self._lingers = False
        self._machine: Machine | None = None
        self._console: CharBackend | None = None
        self._over: Ending | None = None
        self._host_objects: HostObjects | None = None  # where another machine may follow
        if config.devices and config.on_reboot == "restart":
            from pyvmm.backends.host_objects import HostObjects

            self._host_objects = HostObjects()
        self._left = config.timeout  # seconds that the guest has left

    def until_end(self) -> None:
        """Run the guest in this thread, again after a reboot where that is asked for, and tell the parent."""
        with Loop() as loop:
            orders = self._orders = Orders(
                loop,
                self._parent,
                job=JobControl(lambda: self._machine, self._parent.link),
                resized=self._resized,
                signalled=self._signalled,
                stopped=lambda reason: self._end("stopped", reason),
                broken=self._broken,
                server=lambda name: self._control_server(loop, name),
            )
            self._console = make_backend(self._config.console)
            try:
                self._console.open()
                ending = self._boots(loop)
            finally:
                try:
                    if self._host_objects is not None:
                        self._host_objects.close()
                finally:
                    self._console.close()
            orders.ended(ending, linger=self._lingers)

    def _boots(self, loop: Loop) -> Ending:
        while True:
            ending = self._once(loop)
            if ending.reason != "reboot" or self._config.on_reboot != "restart":
                return ending
            loop.run_once(0)  # also for a guest that is faster than the loop
            if self._over is not None:
                return self._over

    def _control_server(self, loop: Loop, name: str) -> ControlServer:
        from pyvmm.cli.served import control_server

        pid, machine, backend = self._parent.pid, self._current_machine, self._console_backend
        return control_server(loop, name, pid, self._config, machine, backend, self._commands)

    def _current_machine(self) -> Machine:
        assert self._machine is not None, "the loop runs after a machine is built"
        return self._machine

    def _console_backend(self) -> CharBackend:
        assert self._console is not None, "until_end makes it"
        return self._console

    def _commands(self) -> ExecClient | str:
        port = self._port
        if port is None:
            return "it runs no commands for others: only pyvmm run's default guest and pyvmm.Guest do"
        return port.client if port.error is None else str(port.error)

    def _exec_channel(self, loop: Loop) -> dict[str, Any]:
        """What the next machine is given so that its user space, ours, runs commands for others."""
        if not self._ours:
            return {}
        from pyvmm.guest.port import ExecPort

        port = self._port = ExecPort()
        loop.call_soon(port.client.connect)
        return {"channel": port.serial, "devices": [port.device], "console_shell": True}

    def _once(self, loop: Loop) -> Ending:
        began = loop.clock()
        console = self._console_backend()
        with Machine(
            self._config.replace(timeout=None),
            loop=loop,
            console=console,
            host_objects=self._host_objects,
            **self._exec_channel(loop),
        ) as machine:
            if self._machine is None:
                announce(self._config, console, _ports(machine), warn=not self._ours)
            self._machine = machine
            made = loop.clock()
            if self._left is not None:
                machine.clock.call_later(max(self._left - (made - began), 0), self._timed_out)
            machine.at_end(lambda: self._leave(machine, loop.clock() - made))
            ending = machine.run()
            if self._left is not None:
                self._left -= machine.clock.clock() - began
        if machine.error is not None and os.environ.get("PYVMM_DEBUG"):
            raise machine.error
        return ending

    def _leave(self, machine: Machine, age: float) -> None:
        """The guest has ended *age* seconds after it was made; nothing of it is closed yet."""
        if age < _CLOSES_SLOWLY and self._config.on_reboot != "restart":
            try:
                os.dup(machine.vm.fd)  # the end of this process waits for it then, and the parent does not
            except OSError:
                return  # no descriptor: closing it waits
            self._lingers = True

    def _broken(self) -> None:
        console = self._console_backend()
        if console.on_break is not None:
            console.on_break()

    def _resized(self) -> None:
        if self._machine is not None:
            for console in self._machine.consoles:
                console.resized()

    def _end(self, reason: str, detail: str) -> None:
        self._over = Ending(STOPPED, reason, TOLD, detail)
        self._orders.ending()
        assert self._machine is not None, "the loop runs after a machine is built"
        self._machine.end(self._over)

    def _signalled(self, number: int) -> None:
        self._end("stopped", f"ended by {name_of(number)}")

    def _timed_out(self) -> None:
        self._end("timeout", f"the guest did not end within {self._config.timeout:g} seconds")


def _ports(machine: Machine) -> list[Port]:
    return [port for console in machine.consoles for port in console.ports]
