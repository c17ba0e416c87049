"""Job control: Ctrl-Z at a shell stops pyvmm, and the guest with it.

The machine is paused before, and goes on when the job does: a guest whose vCPUs merely did not run for a
while would report soft lockups.
"""

from __future__ import annotations

import os

from pyvmm.signals import SIGCONT, SIGTSTP, heard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.backends.terminal import Terminal
    from pyvmm.machine.machine import Machine

_SIGSTOP = 19


class JobControl:
    """What SIGTSTP and SIGCONT do.

    :param machine: gives the machine that runs now; None before the first
    :param terminal: gives the terminal that is in raw mode; None where there is none
    """

    def __init__(
        self, machine: Callable[[], Machine | None], terminal: Callable[[], Terminal | None]
    ) -> None:
        self._machine = machine
        self._terminal = terminal
        self._paused: Machine | None = None

    def handlers(self) -> dict[int, Callable[[int], object]]:
        """By signal, for a SignalFd; none where the process was started with SIGTSTP ignored."""
        return {SIGTSTP: self._stop, SIGCONT: self._continue} if heard(SIGTSTP) else {}

    def _stop(self, number: int) -> None:
        machine, terminal = self._machine(), self._terminal()
        if machine is not None and not machine.paused:
            machine.pause()
            self._paused = machine
        if terminal is not None:
            terminal.stop_job()
        else:
            os.kill(os.getpid(), _SIGSTOP)

    def _continue(self, number: int) -> None:
        terminal = self._terminal()
        if terminal is not None:
            terminal.continue_job()
        machine, self._paused = self._paused, None
        if machine is not None:
            machine.resume()
