"""The clock of a machine that a fake driver's device is in, moved by the test."""

from __future__ import annotations

import pytest

from pyvmm.machine.clock import MachineClock
from pyvmm.testing import FakeDriver


class Time:
    """The clock of a machine that *driver*'s device is in; it goes in ``move`` only."""

    def __init__(self, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        self._driver = driver
        self._now = 1000.0
        monkeypatch.setattr(driver.loop, "clock", lambda: self._now)
        self.machine = driver.device.runtime.timers = MachineClock(driver.loop)

    def move(self, seconds: float) -> None:
        """Let time pass and the device do what is due then."""
        self._now += seconds
        self._driver.run()
