"""What a VM process of ``pyvmm run`` has from its parent, and how it confines itself."""

from __future__ import annotations

import os

from pyvmm.cli.messages import keep_standard_error, message
from pyvmm.sandbox.link import BEGINS
from pyvmm.sandbox.mode import OFF, lacking_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.cli.orders import Orders
    from pyvmm.config import Config
    from pyvmm.machine.confinement import Confinement
    from pyvmm.machine.ending import Ending
    from pyvmm.machine.host_side import HostSide
    from pyvmm.machine.machine import Machine
    from pyvmm.sandbox.leftovers import Leftovers
    from pyvmm.sandbox.vm_process import Parent
    from pyvmm.virtio.device import VirtioDevice


#: What reports, other processes, and the end of a command make it import.
LATER = ("pyvmm.cli.report_handler", "pyvmm.cli.served", "pyvmm.guest.errors")


class InVmProcess:
    """For one machine of a guest.

    :param host_side: what the parent has opened
    :param leftovers: what the machine before has left, and this one leaves; None: there is only one
    :param left: seconds that the guest has left; None: it has no limit
    :param warning: a line for standard error once the first machine is built
    :param mode: one of ``sandbox.mode.MODES``
    :param boot: which of the guest's machines it is, from 0
    :param button: seconds that the guest gets to shut down when its power button was pressed; 0: it is not
    """

    def __init__(
        self,
        parent: Parent,
        host_side: HostSide,
        leftovers: Leftovers | None,
        left: float | None,
        warning: str | None,
        mode: str,
        boot: int,
        button: float,
    ) -> None:
        self.parent = parent
        self.host_side = host_side
        self.leftovers = leftovers
        self.left = left
        #: Whether errors are to be raised as they are.
        self.debug = bool(os.environ.get("PYVMM_DEBUG"))
        self._warning = warning
        self._mode = mode
        self._first = not boot
        self._button = button
        self._pressed = False
        self._confinement: Confinement | None = None

    def enter_sandbox(self, config: Config, serves_exec: bool) -> Sequence[VirtioDevice]:
        """Make the devices that *config* names, and give up what the machine's build does not need.

        :param serves_exec: whether the machine has a channel for commands

        Raises ConfigError, StartError.
        """
        if self.leftovers is not None:
            self.leftovers.give(self.host_side.objects)
        devices = self.host_side.devices()
        if self._mode != OFF:
            from pyvmm.machine.confinement import Confinement

            keep_standard_error()
            largest = 0 if self.leftovers is None else self.leftovers.largest_file
            self._confinement = Confinement(config, self.host_side, devices, serves_exec, largest)
            self._confinement.enter(LATER)
            self.parent.end_with_it()  # which a change of user undoes
        return devices

    def built(self, machine: Machine) -> None:
        """Once *machine* is built: print what is to be told, and complete the sandbox before it starts."""
        if self._warning is not None and self._first:
            message(self._warning)
        machine.at_start(self._begin)

    def stop(self, machine: Machine, orders: Orders, ending: Ending) -> None:
        """End *machine* with *ending* because somebody asked: by its power button first, if that is wanted.

        At once when it is called again. The loop's thread.
        """
        if self._button and not self._pressed:
            self._pressed = True
            machine.power_button()
            machine.loop.call_later(self._button, lambda: self.stop(machine, orders, ending))
            return
        orders.ending(ending)
        machine.end(ending)

    def _begin(self) -> None:
        self.parent.link.send(BEGINS)
        if self._confinement is None:
            return
        self._confinement.seal()
        line = lacking_line(self._mode, self._confinement.lacking)
        if line is not None and self._first:
            message(line)
