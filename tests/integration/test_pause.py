"""A Linux guest that was paused. On arm64: tests/integration/arm64/test_virtio.py."""

from __future__ import annotations

import pytest

from tests.support.paused import IMPATIENT, Paused
from tests.support.shell import BOOT, Shell

pytestmark = [pytest.mark.hw, pytest.mark.timeout(BOOT + 120)]

#: Seconds of the pause. The guest's soft lockup watchdog is set to report a CPU that was stuck for two.
PAUSED = 6


def test_guest_when_paused_longer_than_its_watchdogs_allow_reports_no_stall() -> None:
    shell = Shell([], cmdline=IMPATIENT)
    try:
        paused = Paused(shell, PAUSED)
    finally:
        shell.close()
    # The guest's clocks went on: its watchdogs could have noticed.
    assert paused.boottime > PAUSED and paused.realtime >= PAUSED
    assert paused.complaints == []
