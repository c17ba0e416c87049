"""A device that was saved stands still until the machine goes on, or until it is loaded; nothing is lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.backends.net.switch import Switch
from pyvmm.loop import READ, WRITE, Loop, LoopThread
from pyvmm.testing import FakeDriver
from pyvmm.virtio.balloon.device import Balloon
from pyvmm.virtio.console.device import VirtioConsole
from pyvmm.virtio.console.port import Port
from pyvmm.virtio.errors import QueueError
from pyvmm.virtio.net.device import Net
from pyvmm.virtio.transport.interrupt import CONFIG_CHANGE
from pyvmm.virtio.vsock import packet as p
from tests.support.console_driver import PipeEnds, give_buffers, received, send
from tests.support.disks import IN, OUT, Bench, header
from tests.support.net_driver import NetDriver, frame, wired
from tests.support.rings import Copier, Pair
from tests.support.vsock_guest import VsockGuest

GoOn = Callable[[FakeDriver, "Saved"], None]


class Saved:
    """What *driver*'s device is saved as, and guest memory at that moment."""

    def __init__(self, driver: FakeDriver) -> None:
        self.state = driver.transport.save()
        self._driver = driver
        self._before = self._now()

    def _now(self) -> tuple[bytes, int]:
        return bytes(self._driver.memory.regions[0].buffer), self._driver.interrupts

    def begins_anew(self) -> None:
        """The driver has done something."""
        self._before = self._now()

    @property
    def stands(self) -> bool:
        """Whether the loop comes to rest, and memory and interrupts are as before."""
        loop = self._driver.loop
        for _ in range(20):
            loop.run_once(0)
        return loop.run_once(0) == 0 and self._now() == self._before


def resume(driver: FakeDriver, saved: Saved) -> None:
    driver.transport.resume()
    driver.run()


def load(driver: FakeDriver, saved: Saved) -> None:
    driver.transport.load(saved.state)
    driver.run()


@pytest.fixture(params=[resume, load])
def go_on(request: pytest.FixtureRequest) -> GoOn:
    found: GoOn = request.param
    return found


# Each kind


def test_frame_of_a_socket_when_it_comes_meanwhile_arrives_once_afterwards(go_on: GoOn) -> None:
    with wired() as (driver, wire):
        driver.give(2048, 2048, 2048)
        wire.arrive(frame(60))
        assert driver.received() == [frame(60)]
        saved = Saved(driver)
        wire.arrive(frame(61), frame(62))
        stood = saved.stands
        go_on(driver, saved)

        assert (stood, driver.received()) == (True, [frame(61), frame(62)])


def test_frame_that_another_guest_pushes_meanwhile_waits_and_keeps_its_order() -> None:
    with switched() as (sender, driver):
        driver.give(*[2048] * 4)
        saved = Saved(driver)
        sender.send(frame(61))
        sender.send(frame(62))
        stood = saved.stands
        driver.transport.resume()
        sender.send(frame(63))

        assert (stood, driver.received()) == (True, [frame(61), frame(62), frame(63)])


def test_frame_that_another_guest_pushes_before_a_load_leaves_rings_that_go_on() -> None:
    with switched() as (sender, driver):
        driver.give(*[2048] * 4)
        saved = Saved(driver)
        sender.send(frame(61))
        stood = saved.stands
        load(driver, saved)
        sender.send(frame(62))

        assert (stood, driver.received()) == (True, [frame(62)])


class switched:
    """The drivers of two guests on one switch."""

    def __enter__(self) -> tuple[NetDriver, NetDriver]:
        lan = Switch()
        self.drivers = NetDriver(Net(lan.port(), seed="one")), NetDriver(Net(lan.port(), seed="two"))
        return self.drivers

    def __exit__(self, *_: object) -> None:
        for driver in self.drivers:
            driver.close()


def test_frame_that_the_driver_sends_meanwhile_leaves_once(go_on: GoOn) -> None:
    with wired() as (driver, wire):
        saved = Saved(driver)
        driver.tx.add([bytes(12), frame(60)])
        driver.tx.kick()
        saved.begins_anew()
        stood, early = saved.stands, wire.sent()
        go_on(driver, saved)

        assert (stood, early) == (True, [])
        assert wire.sent() == [bytes(12) + frame(60)] and len(driver.tx.collect()) == 1


def test_input_of_a_console_when_it_comes_meanwhile_arrives_whole(go_on: GoOn) -> None:
    ends = PipeEnds()
    with FakeDriver(VirtioConsole([Port(ends)])) as driver:
        give_buffers(driver, *[64] * 8)
        os.write(ends.writer, b"before ")
        driver.run()
        first = received(driver)
        saved = Saved(driver)
        os.write(ends.writer, b"and after")
        stood = saved.stands
        go_on(driver, saved)

        assert (first, stood, received(driver)) == (b"before ", True, b"and after")


def test_input_of_a_console_when_it_is_saved_between_the_question_for_room_and_the_input_waits(
    go_on: GoOn,
) -> None:
    ends = PipeEnds()
    with FakeDriver(VirtioConsole([Port(ends)])) as driver:
        give_buffers(driver, 64, 64)
        asked: list[Saved] = []
        space = ends._reader._space

        def then_saved() -> int:
            room = space()
            asked.append(Saved(driver))
            return room

        os.write(ends.writer, b"in between")
        ends._reader._space = then_saved
        driver.loop.run_once(0)
        ends._reader._space = space
        stood = asked[-1].stands
        go_on(driver, asked[-1])

        assert (stood, received(driver)) == (True, b"in between")


def test_output_of_a_console_whose_interrupt_is_put_off_is_told_before_it_is_saved() -> None:
    ends = PipeEnds()
    with FakeDriver(VirtioConsole([Port(ends)])) as driver:
        send(driver, [b"text"])
        before = driver.interrupts
        state = driver.transport.save()

        assert (before, driver.interrupts, state["interrupt_status"]) == (0, 1, 1)


def test_data_of_a_socket_when_it_comes_meanwhile_arrives_afterwards() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        saved = Saved(guest.driver)
        sock.sendall(b"meanwhile")
        guest.connect()  # nor is anybody accepted
        stood = saved.stands
        guest.driver.transport.resume()

        assert stood
        packets = guest.packets()
        assert [packet.data for packet in packets if packet.op == p.OP_RW] == [b"meanwhile"]
        assert p.OP_REQUEST in [packet.op for packet in packets]


def test_data_of_a_socket_when_it_comes_before_a_load_is_never_seen() -> None:
    with VsockGuest() as guest:
        sock = guest.connection()
        saved = Saved(guest.driver)
        sock.sendall(b"meanwhile")
        stood = saved.stands
        load(guest.driver, saved)

        assert (stood, guest.ops()) == (True, [])


def test_requests_for_a_disk_when_they_come_meanwhile_are_served_once(tmp_path: Path, go_on: GoOn) -> None:
    with Bench(tmp_path / "disk.img") as bench:
        driver, image = bench.driver, bench.image
        saved = Saved(driver)
        ring = driver.queues[0]
        ring.add([header(OUT, 3), b"w" * 512], [1])
        read = ring.add([header(IN, 3)], [512, 1])
        ring.kick()
        saved.begins_anew()
        stood = saved.stands and bench.image == image
        go_on(driver, saved)

        assert stood and len(ring.collect()) == 2
        assert ring.data(read) == b"w" * 512 + b"\0"


# What may wait


def test_timers_calls_and_kicks_when_they_come_meanwhile_are_carried_out_in_order() -> None:
    device = Pair()
    with FakeDriver(device) as driver:
        order: list[object] = []
        device.handle = lambda queue, chain: order.append(queue)  # type: ignore[method-assign,func-returns-value]
        saved = Saved(driver)
        for queue in driver.queues:
            queue.add([b"x"])
        saved.begins_anew()
        for step in (
            lambda: device.runtime.later(0, lambda: order.append("timer")),
            lambda: driver.transport._kick(1),
            lambda: device.runtime.soon(lambda: order.append("soon")),
            lambda: driver.transport._kick(0),
            lambda: driver.transport._kick(1),
        ):
            step()
            stood = saved.stands
        early = list(order)
        resume(driver, saved)

    assert (stood, early, order) == (True, [], ["timer", 1, "soon", 0])


def test_timer_when_it_is_cancelled_while_it_waits_is_not_called() -> None:
    device = Copier()
    with FakeDriver(device) as driver:
        called: list[int] = []
        saved = Saved(driver)
        timer = device.runtime.later(0, lambda: called.append(1))
        driver.run(lambda: not timer.active)
        timer.cancel()
        resume(driver, saved)

        assert (called, device.runtime._timers) == ([], set())


def test_timer_when_it_is_not_due_before_the_machine_goes_on_fires_in_time() -> None:
    device = Copier()
    with FakeDriver(device) as driver:
        called: list[int] = []
        device.runtime.later(0.01, lambda: called.append(1))
        resume(driver, Saved(driver))

        driver.run(lambda: called)


def test_everything_when_the_driver_resets_meanwhile_is_dropped(pipe: tuple[int, int]) -> None:
    device = Copier()
    with FakeDriver(device) as driver:
        called: list[str] = []
        device.runtime.watch(pipe[0], READ, lambda _: called.append("ready"))
        saved = Saved(driver)
        os.write(pipe[1], b"x")
        device.runtime.soon(lambda: called.append("soon"))
        device.runtime.later(0, lambda: called.append("timer"))
        assert saved.stands
        driver.probe()
        driver.run()

        assert (called, device.runtime.held) == ([], False)
        assert driver.request(0, [b"anew"], [8]) == b"anew"


def test_configuration_when_it_changes_meanwhile_is_told_afterwards() -> None:
    device = Copier()
    with FakeDriver(device) as driver:
        saved = Saved(driver)
        device.config_changed()
        stood = saved.stands
        resume(driver, saved)

        assert (stood, driver.acknowledge()) == (True, CONFIG_CHANGE)


def test_configuration_that_changed_while_it_was_saved_is_told_by_a_load() -> None:
    device = Balloon()
    with FakeDriver(device) as driver:
        device.config.num_pages = 7  # as the target's setter does, and a save comes between it and its call
        saved = Saved(driver)
        load(driver, saved)

        assert driver.acknowledge() == CONFIG_CHANGE


def test_configuration_changed_again_and_again_while_saved_is_told_once_and_kept_once() -> None:
    device = Copier()
    with FakeDriver(device) as driver:
        saved = Saved(driver)
        for _ in range(100):
            device.config_changed()
            driver.loop.run_once(0)
        kept = len(device.runtime._deferred)
        before = driver.interrupts
        resume(driver, saved)

        assert (kept, driver.interrupts - before, driver.acknowledge()) == (1, 1, CONFIG_CHANGE)


def test_what_waits_when_the_device_is_saved_again_at_once_waits_on() -> None:
    device = Copier()
    with FakeDriver(device) as driver:
        called: list[int] = []
        saved = Saved(driver)
        device.runtime.soon(lambda: called.append(1))
        assert saved.stands
        driver.transport.resume()
        again = Saved(driver)
        stood = again.stands
        early = list(called)
        resume(driver, again)

    assert (stood, early, called) == (True, [], [1])


def test_device_when_it_broke_while_it_stood_still_stays_broken(pipe: tuple[int, int]) -> None:
    device = Copier()
    with FakeDriver(device) as driver:
        called: list[int] = []
        device.runtime.watch(pipe[0], READ, called.append)
        saved = Saved(driver)
        os.write(pipe[1], b"x")
        assert saved.stands
        device.runtime.halt(QueueError("meanwhile"))
        resume(driver, saved)

        assert driver.status & 64 and not called
        driver.probe()
        assert driver.request(0, [b"anew"], [8]) == b"anew"


# Descriptors


def test_descriptor_when_it_is_ready_meanwhile_does_not_keep_the_loop_turning_and_tells_afterwards(
    pipe: tuple[int, int],
) -> None:
    device = Copier()
    with FakeDriver(device) as driver:
        called: list[int] = []
        device.runtime.watch(pipe[0], READ, called.append)
        driver.transport.save()
        os.write(pipe[1], b"x")
        turns = [driver.loop.run_once(0) for _ in range(10)]
        early = list(called)
        driver.transport.resume()
        driver.loop.run_once(0)
        driver.loop.run_once(0)

        assert (sum(turns), early, called) == (1, [], [READ])


def test_descriptor_when_its_events_are_changed_meanwhile_tells_of_the_latest(pipe: tuple[int, int]) -> None:
    device = Copier()
    with FakeDriver(device) as driver:
        called: list[int] = []
        device.runtime.watch(pipe[1], WRITE, called.append)
        saved = Saved(driver)
        assert saved.stands
        device.runtime.rewatch(pipe[1], 0)
        resume(driver, saved)
        device.runtime.rewatch(pipe[1], WRITE)
        driver.loop.run_once(0)

        assert called == [WRITE]


def test_descriptor_when_it_is_forgotten_meanwhile_tells_no_more(pipe: tuple[int, int]) -> None:
    device = Copier()
    with FakeDriver(device) as driver:
        called: list[int] = []
        device.runtime.watch(pipe[0], READ, called.append)
        saved = Saved(driver)
        os.write(pipe[1], b"x")
        assert saved.stands
        device.runtime.unwatch(pipe[0])
        resume(driver, saved)

        assert called == []


def test_descriptor_when_it_is_watched_meanwhile_tells_afterwards(pipe: tuple[int, int]) -> None:
    device = Copier()
    with FakeDriver(device) as driver:
        called: list[int] = []

        def read(_: int) -> None:
            called.append(len(os.read(pipe[0], 8)))

        saved = Saved(driver)
        os.write(pipe[1], b"x")
        device.runtime.watch(pipe[0], READ, read)
        stood = saved.stands
        early = list(called)
        resume(driver, saved)

        assert (stood, early, called) == (True, [], [1])


# The end


def test_device_when_the_machine_never_goes_on_costs_nothing_and_is_closed(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Copier()
    turns: list[float | None] = []
    run_once = Loop.run_once
    monkeypatch.setattr(
        Loop, "run_once", lambda self, timeout=None: turns.append(timeout) or run_once(self, timeout)
    )
    thread = LoopThread("held")
    with FakeDriver(device) as driver:
        device.runtime.loop = thread.loop
        device.runtime.watch(pipe[0], READ, lambda _: None)
        driver.transport.save()
        os.write(pipe[1], b"x")
        device.runtime.later(0, lambda: None)
        device.runtime.run_queue(0)
        time.sleep(0.2)
        turned = len(turns)

        closing = threading.Thread(target=lambda: (driver.transport.close(), thread.close()))
        closing.start()
        closing.join(10)
        driver.transport.resume()

        assert not closing.is_alive() and not device.runtime.active
        assert turned < 20
