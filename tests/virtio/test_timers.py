"""Timers of virtio devices go by the machine's clock: none fires while that is stopped."""

from __future__ import annotations

import pytest

from pyvmm.testing import FakeDriver
from pyvmm.virtio.balloon.device import STATS, Balloon
from pyvmm.virtio.vsock import packet as p
from pyvmm.virtio.vsock.device import PATIENCE
from tests.support.machine_time import Time
from tests.support.rings import Copier
from tests.support.vsock_guest import VsockGuest


def test_device_without_a_machine_has_the_clock_of_its_loop() -> None:
    with FakeDriver(Copier()) as driver:
        assert driver.device.runtime.timers is driver.loop


def test_statistics_when_the_clock_is_stopped_are_asked_for_after_what_was_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeDriver(Balloon(stats=10.0), start=False) as driver:
        time = Time(driver, monkeypatch)
        driver.probe()
        ring = driver.queues[STATS]
        ring.add([b""])
        ring.kick()
        time.move(7)
        time.machine.stop()
        time.move(1000)
        stopped = ring.collect()
        time.machine.start()
        time.move(2.9)
        early = ring.collect()
        time.move(0.2)

        assert (stopped, early, len(ring.collect())) == ([], [], 1)


def test_connection_when_the_clock_is_stopped_keeps_its_time_to_be_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with VsockGuest() as guest:
        time = Time(guest.driver, monkeypatch)
        guest.connect()
        asked = guest.ops()
        time.move(PATIENCE - 1)
        time.machine.stop()
        time.move(1000)
        stopped = guest.ops()
        time.machine.start()
        time.move(0.9)
        early = guest.ops()
        time.move(0.2)

        assert (asked, stopped, early, guest.ops()) == ([p.OP_REQUEST], [], [], [p.OP_RST])


def test_reset_when_the_clock_is_stopped_cancels_the_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Copier()
    with FakeDriver(device) as driver:
        time = Time(driver, monkeypatch)
        called: list[int] = []
        timer = device.runtime.later(1, lambda: called.append(1))
        time.machine.stop()
        driver.reset()
        time.machine.start()
        time.move(2)

        assert (called, timer.active, timer.cancelled) == ([], False, True)
