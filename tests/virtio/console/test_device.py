"""The console device, driven by the fake driver: data, back-pressure, bounded memory (BAD_INPUT row 20)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.base import CharBackend
from pyvmm.backends.file import OutputFile
from pyvmm.testing import FakeDriver
from pyvmm.virtio import features as f
from pyvmm.virtio.console.device import VirtioConsole
from pyvmm.virtio.console.port import BATCH, DELAYS, MODERATION, Port
from tests.support.console_driver import RX, TX, PipeEnds, give_buffers, received, send
from tests.support.process import resident

HUNDRED_MB = 100 << 20


@pytest.fixture
def ends() -> PipeEnds:
    return PipeEnds()


@pytest.fixture
def driver(ends: PipeEnds) -> Iterator[FakeDriver]:
    with FakeDriver(VirtioConsole([Port(ends)])) as driver:
        yield driver


# Guest to host


def test_output_when_it_comes_in_several_chains_and_parts_arrives_in_order(
    driver: FakeDriver, ends: PipeEnds
) -> None:
    send(driver, [b"on", b"e "], [b"two ", b""], [b"three"])

    assert ends.read() == b"one two three"
    assert [request.written for request in driver.queues[TX].collect()] == [0, 0, 0]


def test_output_when_nobody_reads_stays_in_the_queue_and_arrives_later(
    driver: FakeDriver, ends: PipeEnds
) -> None:
    data = os.urandom(300_000)
    pieces = [data[at : at + 30_000] for at in range(0, len(data), 30_000)]
    send(driver, *([piece] for piece in pieces))
    ring = driver.queues[TX]
    back = len(ring.collect())

    seen = b""
    while len(seen) < len(data):
        seen += ends.read()
        driver.run()

    assert back < len(pieces)
    assert seen == data
    assert len(ring.collect()) == len(pieces) - back


def test_output_when_it_is_blocked_costs_no_turns_of_the_loop(driver: FakeDriver) -> None:
    send(driver, [bytes(200_000)])

    assert [driver.loop.run_once(0) for _ in range(20)] == [0] * 20


def test_output_when_the_chains_are_larger_than_a_batch_arrives_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    data = os.urandom(BATCH // 2 + 7)
    with FakeDriver(VirtioConsole([Port(OutputFile(str(path)))])) as driver:
        send(driver, [data] * 5)

    assert path.read_bytes() == data * 5


def test_output_of_100_mb_to_a_reader_that_is_stuck_grows_memory_by_at_most_one_percent(
    driver: FakeDriver, ends: PipeEnds
) -> None:
    # The same bytes of guest memory, described again and again: as much as a queue can hold.
    ring = driver.queues[TX]
    address = driver.allocate(16 << 20)
    driver.memory.write(address, bytes(16 << 20))
    send(driver, [b"first"])
    before = resident()
    for _ in range(64):
        ring.add_buffers([(address, 16 << 20, 0)])
        ring.kick()
        driver.run()
    grown = resident() - before

    assert len(ring.collect()) == 1
    assert grown < HUNDRED_MB // 100


def test_output_when_all_chains_are_empty_is_given_back(driver: FakeDriver) -> None:
    ring = driver.queues[TX]
    for _ in range(4):
        ring.add_buffers([(driver.allocate(16), 0, 0)])
        ring.add(writable=[64])
    ring.kick()
    driver.run(lambda: ring.collect() or not ring.pending)

    assert not ring.pending


def test_output_when_the_driver_polls_costs_it_no_interrupt(driver: FakeDriver) -> None:
    ring = driver.queues[TX]
    for _ in range(20):
        send(driver, [b"sixteen bytes..."])
        assert len(ring.collect()) == 1  # which tells the device that this one was seen
    device = driver.device
    driver.run(lambda: not device.runtime._timers)

    assert driver.interrupts == 0


def test_output_when_the_loop_is_late_gives_a_driver_that_polls_time_to_see_it(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [driver.loop.clock()]
    monkeypatch.setattr(driver.loop, "clock", lambda: now[0])
    ring = driver.queues[TX]
    for _ in range(20):
        ring.add([b"sixteen bytes..."])
        now[0] += 1.5 * MODERATION  # the timer is due in the turn that serves the kick
        driver.device.runtime.run_queue(TX)
        driver.run()
        ring.collect()
        now[0] += 0.25 * MODERATION
        driver.run()

    assert driver.interrupts <= 20 // DELAYS


def test_output_when_the_driver_waits_brings_one_interrupt_soon(driver: FakeDriver) -> None:
    send(driver, [b"one"], [b"two"], [b"three"])
    driver.run(lambda: driver.interrupts)

    assert driver.interrupts == 1
    assert len(driver.queues[TX].collect()) == 3


def test_output_without_event_index_brings_an_interrupt_too(ends: PipeEnds) -> None:
    with FakeDriver(VirtioConsole([Port(ends)]), features=f.F_VERSION_1) as driver:
        send(driver, [b"one"])
        driver.run(lambda: driver.interrupts)

        assert ends.read() == b"one"


def test_output_of_the_console_also_goes_to_the_tap_as_far_as_it_was_sent(ends: PipeEnds) -> None:
    console = VirtioConsole([Port(ends)])
    heard: list[bytes] = []
    console.tap(heard.append)
    with FakeDriver(console) as driver:
        send(driver, [bytes(100_000)], [b"end"])

        assert 0 < sum(map(len, heard)) < 100_000
        ends.read()
        driver.run(lambda: b"".join(heard).endswith(b"end"))


# Host to guest


def test_input_fills_buffers_in_order_and_goes_at_once(driver: FakeDriver, ends: PipeEnds) -> None:
    give_buffers(driver, 4, 0, 3, 4096)
    os.write(ends.writer, b"abcdefgh")
    driver.run(lambda: driver.interrupts)

    ring = driver.queues[RX]
    assert [ring.data(request) for request in ring.collect()] == [b"", b"abcd", b"efg", b"h"]


def test_input_when_the_guest_has_no_buffers_waits_in_the_pipe(driver: FakeDriver, ends: PipeEnds) -> None:
    os.write(ends.writer, b"early")
    driver.run()
    assert [driver.loop.run_once(0) for _ in range(20)] == [0] * 20

    give_buffers(driver, 4096)

    assert received(driver) == b"early"


def test_input_of_100_mb_arrives_whole_and_grows_memory_by_at_most_one_percent(
    driver: FakeDriver, ends: PipeEnds
) -> None:
    block = os.urandom(1 << 16)
    ring = driver.queues[RX]
    addresses = [driver.allocate(4096) for _ in range(ring.size)]
    sent = got = before = 0
    while got < HUNDRED_MB:
        if sent < HUNDRED_MB:
            sent += ends.fill(block)
        while ring.free:
            address = addresses[ring.avail_idx % ring.size]
            ring.add_buffers([(address, 4096, 2)])
        ring.kick()
        driver.run()
        got += sum(request.written for request in ring.collect())
        if got > 10 << 20 and not before:
            before = resident()

    assert got == sent
    assert resident() - before < HUNDRED_MB // 100


def test_input_of_100_mb_that_nobody_takes_grows_memory_by_at_most_one_percent(
    driver: FakeDriver, ends: PipeEnds
) -> None:
    ends.fill()
    driver.run()
    before = resident()
    taken = 0
    for _ in range(HUNDRED_MB >> 16):
        taken += ends.fill()
        driver.run()

    assert taken == 0
    assert resident() - before < HUNDRED_MB // 100


def test_input_when_a_buffer_is_not_for_writing_goes_into_the_next(
    driver: FakeDriver, ends: PipeEnds
) -> None:
    driver.queues[RX].add([b"read only"])
    give_buffers(driver, 64)
    os.write(ends.writer, b"text")
    driver.run(lambda: driver.interrupts)

    assert received(driver) == b"text"


# Life


def test_reset_when_output_is_blocked_forgets_it_and_the_next_driver_works(
    driver: FakeDriver, ends: PipeEnds
) -> None:
    send(driver, [bytes(200_000)])
    driver.probe()
    ends.read()
    send(driver, [b"anew"])
    driver.run()

    assert ends.read().endswith(b"anew")


def test_reset_when_input_waits_keeps_it_for_the_next_driver(driver: FakeDriver, ends: PipeEnds) -> None:
    os.write(ends.writer, b"patience")
    driver.run()
    driver.probe()
    give_buffers(driver, 64)
    driver.run(lambda: driver.interrupts)

    assert received(driver) == b"patience"


def test_state_when_output_is_blocked_is_taken_over_without_loss_or_repetition(
    driver: FakeDriver, ends: PipeEnds
) -> None:
    data = os.urandom(200_000)
    send(driver, [data[:150_000]], [data[150_000:]])
    state = driver.transport.save()
    first = ends.read()
    driver.transport.load(state)
    seen = first
    driver.run()
    while more := ends.read():
        seen += more
        driver.run()

    assert seen == data
    assert len(driver.queues[TX].collect()) == 2


def test_size_of_a_terminal_is_in_the_configuration_space_and_changes_with_it() -> None:
    class Screen(CharBackend):
        now = (100, 40)

        def size(self) -> tuple[int, int]:
            return self.now

    screen = Screen()
    console = VirtioConsole([Port(screen)])
    with FakeDriver(console) as driver:
        before = driver.config(0, 2), driver.config(2, 2)
        screen.now = (80, 25)
        console.resized()
        driver.run()

        assert (before, driver.config(0, 2), driver.config(2, 2)) == ((100, 40), 80, 25)
        assert driver.acknowledge() == 2  # a configuration change
