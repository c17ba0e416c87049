"""Job control: the guest is paused while the job is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from pyvmm.backends.terminal import Terminal
from pyvmm.cli.job import JobControl
from pyvmm.machine.machine import Machine
from pyvmm.sandbox.link import PAUSED, MessageLink, pair
from tests.support import programs

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]


class Watched:
    """A terminal that notes whether the machine is paused while it is restored, and made raw again."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.paused: list[bool] = []

    def release(self) -> None:
        self.paused.append(self._machine.paused)

    def continue_job(self) -> None:
        self.paused.append(self._machine.paused)


@pytest.mark.parametrize("by_the_user", [False, True])
def test_machine_is_paused_from_the_stop_to_the_continuation_unless_the_user_paused_it(
    tmp_path: Path, by_the_user: bool
) -> None:
    parents, ours = (MessageLink(end) for end in pair())
    with programs.machine(tmp_path, programs.COUNT) as machine:
        machine.start()
        if by_the_user:
            machine.pause()
        terminal = Watched(machine)
        job = JobControl(lambda: machine, lambda: cast(Terminal, terminal), ours)

        job.stop()
        assert parents.receive() == (PAUSED, -1)
        job.go_on()
        job.go_on()  # that of another stop, of which nothing was told

        assert terminal.paused == [True, True, by_the_user]
        assert machine.paused is by_the_user
    parents.close()
    ours.close()
