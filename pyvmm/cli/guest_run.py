"""A guest of ``pyvmm run`` in its VM process."""

from __future__ import annotations

import os

from pyvmm.cli.job import JobControl
from pyvmm.cli.orders import Orders
from pyvmm.loop import Loop
from pyvmm.machine.ending import STOPPED, TOLD, Ending
from pyvmm.machine.machine import Machine
from pyvmm.signals import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.cli.in_vm_process import InVmProcess
    from pyvmm.config import Config
    from pyvmm.exec.client import ExecClient
    from pyvmm.guest.control import ControlServer
    from pyvmm.guest.port import ExecPort

#: Seconds from the making of a VM in which closing its last descriptor waits 20 ms: the grace periods
#: of its interrupt controllers (``kvm_destroy_vm`` in Linux virt/kvm/kvm_main.c).
_CLOSES_SLOWLY = 0.03


class GuestRun:
    """One machine of a guest of ``pyvmm run``, in a VM process of its own.

    Signals, which the parent passes on, --timeout and Ctrl-A x end it with code 3.

    :param ours: whether its user space is ours, which runs commands for ``pyvmm exec``
    """

    def __init__(self, config: Config, ours: bool, there: InVmProcess) -> None:
        self._config = config
        self._ours = ours
        self._there = there
        self._left = there.left
        self._orders: Orders
        self._port: ExecPort | None = None
        self._lingers = False
        self._machine: Machine | None = None

    def until_end(self) -> None:
        """Run the machine in this thread, and tell the parent how it ended."""
        with Loop() as loop:
            orders = self._orders = Orders(
                loop,
                self._there.parent,
                job=JobControl(lambda: self._machine, self._there.parent.link),
                resized=self._resized,
                signalled=self._signalled,
                stopped=lambda reason: self._end("stopped", reason),
                broken=self._broken,
                server=lambda name: self._control_server(loop, name),
            )
            ending = self._run(loop)
            leftovers, host_side = self._there.leftovers, self._there.host_side
            goes_on = leftovers is not None and ending.reason == "reboot"
            if leftovers is not None and goes_on:
                leftovers.write(host_side.objects, self._there.parent.link)
            else:
                host_side.drain()
            orders.ended(ending, host_side, linger=self._lingers, left=self._left, last=not goes_on)

    def _control_server(self, loop: Loop, name: str) -> ControlServer:
        from pyvmm.cli.served import control_server

        pid, console = self._there.parent.pid, self._there.host_side.console
        machine = self._current_machine
        return control_server(loop, name, pid, self._config, machine, lambda: console, self._commands)

    def _current_machine(self) -> Machine:
        assert self._machine is not None, "the loop runs after a machine is built"
        return self._machine

    def _commands(self) -> ExecClient | str:
        port = self._port
        if port is None:
            return "it runs no commands for others: only pyvmm run's default guest and pyvmm.Guest do"
        return port.client if port.error is None else str(port.error)

    def _exec_channel(self, loop: Loop) -> dict[str, Any]:
        """What the next machine is given so that its user space, ours, runs commands for others."""
        if not self._ours:
            return {}
        from pyvmm.guest.exec_devices import ExecDevices
        from pyvmm.guest.port import ExecPort

        devices = ExecDevices()
        port = self._port = ExecPort(devices.link)
        loop.call_soon(port.client.connect)
        return {"channel": devices.serial, "devices": [devices.device], "console_shell": True}

    def _run(self, loop: Loop) -> Ending:
        began = loop.clock()
        host_side = self._there.host_side
        channel = self._exec_channel(loop)
        devices = self._there.enter_sandbox(self._config, bool(channel))
        with Machine(
            self._config.replace(timeout=None),
            loop=loop,
            console=host_side.console,
            made=devices,
            host_objects=host_side.objects,
            **channel,
        ) as machine:
            self._machine = machine
            self._there.built(machine)
            made = loop.clock()
            if self._left is not None:
                machine.clock.call_later(max(self._left - (made - began), 0), self._timed_out)
            machine.at_end(lambda: self._leave(machine, loop.clock() - made))
            ending = machine.run()
            if self._left is not None:
                self._left -= machine.clock.clock() - began
        if machine.error is not None and self._there.debug:
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
        if self._there.host_side.console.on_break is not None:
            self._there.host_side.console.on_break()

    def _resized(self) -> None:
        if self._machine is not None:
            for console in self._machine.consoles:
                console.resized()

    def _end(self, reason: str, detail: str) -> None:
        self._there.stop(self._current_machine(), self._orders, Ending(STOPPED, reason, TOLD, detail))

    def _signalled(self, number: int) -> None:
        self._end("stopped", f"ended by {name_of(number)}")

    def _timed_out(self) -> None:
        self._end("timeout", f"the guest did not end within {self._config.timeout:g} seconds")
