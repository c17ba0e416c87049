"""Job control: the guest is paused while the job is stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.cli.job import JobControl
from pyvmm.sandbox.link import PAUSED, MessageLink, pair
from tests.support import programs

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]


@pytest.mark.parametrize("by_the_user", [False, True])
def test_machine_is_paused_from_the_stop_to_the_continuation_unless_the_user_paused_it(
    tmp_path: Path, by_the_user: bool
) -> None:
    parents, ours = (MessageLink(end) for end in pair())
    with programs.machine(tmp_path, programs.COUNT) as machine:
        machine.start()
        if by_the_user:
            machine.pause()
        job = JobControl(lambda: machine, ours)

        job.stop()
        assert parents.receive() == (PAUSED, -1)
        assert machine.paused
        job.go_on()
        assert machine.paused is by_the_user
        job.go_on()  # that of another stop, of which nothing was told

        assert machine.paused is by_the_user
    parents.close()
    ours.close()
