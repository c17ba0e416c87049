"""Job control: Ctrl-Z at a shell stops pyvmm, and the guest with it.

The machine is paused before, and goes on when the job does: a guest whose vCPUs merely did not run for a
while would report soft lockups.
"""

from __future__ import annotations

from pyvmm.sandbox.link import PAUSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.machine.machine import Machine
    from pyvmm.sandbox.link import MessageLink


class JobControl:
    """What SIGTSTP and SIGCONT do, in the VM process.

    :param machine: gives the machine that runs now; None before the first
    :param parent: which stops the job once it is told that the machine is paused
    """

    def __init__(
        self,
        machine: Callable[[], Machine | None],
        parent: MessageLink,
    ) -> None:
        self._machine = machine
        self._parent = parent
        self._paused: Machine | None = None

    def stop(self) -> None:
        """SIGTSTP."""
        machine = self._machine()
        if machine is not None and not machine.paused:
            machine.pause()
            self._paused = machine
        self._parent.send(PAUSED)

    def go_on(self) -> None:
        """SIGCONT."""
        machine, self._paused = self._paused, None
        if machine is not None:
            machine.resume()
