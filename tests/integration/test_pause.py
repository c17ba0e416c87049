"""A Linux guest that was paused."""

from __future__ import annotations

import time

import pytest

from tests.support.shell import BOOT, Shell

pytestmark = [pytest.mark.hw, pytest.mark.timeout(BOOT + 120)]

#: Seconds of the pause. The guest's soft lockup watchdog is set to report a CPU that was stuck for two.
PAUSED = 6


def test_guest_when_paused_longer_than_its_watchdogs_allow_reports_no_stall() -> None:
    shell = Shell([], cmdline="rcupdate.rcu_cpu_stall_timeout=3")
    try:
        shell.run("echo 1 > /proc/sys/kernel/watchdog_thresh")
        log = shell.run("dmesg")
        before = float(shell.run("cut -d' ' -f1 /proc/uptime"))

        shell.machine.pause()
        time.sleep(PAUSED)
        shell.machine.resume()

        after = float(shell.run("sleep 3; cut -d' ' -f1 /proc/uptime"))
        reported = shell.run("dmesg").removeprefix(log)
    finally:
        shell.close()
    assert after - before > PAUSED  # the guest's clock went on: its watchdogs could have noticed
    assert "lockup" not in reported
    assert "stall" not in reported
