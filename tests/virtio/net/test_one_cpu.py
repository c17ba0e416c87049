"""Who sends where there is one CPU: the vCPU that notifies, for a conversation; else the loop, in batches."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest

from pyvmm.loop import EDGE, READ
from pyvmm.virtio.one_cpu import CONVERSATION, SHORT, install
from pyvmm.virtio.transport import mmio
from pyvmm.virtio.transport.bus import Attached
from tests.support.net_driver import NetDriver, Wire, frame, wired

TX = 1
#: Where its registers are.
BASE = 0xD000_0000
ENOUGH = CONVERSATION + 5


def on_a_vcpu(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


class OneCpu:
    """A driver on a host of one CPU; this thread is the loop's. It stands for KVM, too."""

    def __init__(self, driver: NetDriver, wire: Wire, kicks: list[int]) -> None:
        self.driver, self.wire = driver, wire
        #: (queue, whether its ioeventfd is assigned) as it changed.
        self.doorbells: list[tuple[int, bool]] = []
        attached = Attached("net0", driver.device, BASE, 5)
        attached.transport, attached.kicks = driver.transport, kicks
        runtime = driver.device.runtime
        for queue, kick in enumerate(kicks):
            driver.loop.add(kick, READ | EDGE, lambda _, queue=queue: runtime.run_queue(queue))  # type: ignore[misc]
        driver.transport._kick = lambda queue: os.eventfd_write(kicks[queue], 1)
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(mine)[:1])
        try:
            install([attached], self)  # type: ignore[arg-type]
        finally:
            os.sched_setaffinity(0, mine)
        driver.give(*[2048] * 8)

    def ioeventfd(self, fd: int, address: int, size: int, datamatch: int, *, deassign: bool) -> None:
        """As ``Vm.ioeventfd``."""
        assert (address, size) == (BASE + mmio.QUEUE_NOTIFY, 4)
        self.doorbells.append((datamatch, not deassign))

    def send(self, *sizes: int) -> int:
        """How many frames had been sent when the vCPU's kick was over; all are when this returns."""
        for size in sizes:
            self.driver.tx.add([bytes(12), frame(size)])
        on_a_vcpu(self.driver.tx.kick)
        at_once = len(self.wire.sent())
        self.driver.run()
        self.driver.tx.collect()
        assert at_once + len(self.wire.sent()) == len(sizes)
        return at_once

    def receive(self, *sizes: int) -> None:
        self.wire.arrive(*map(frame, sizes))
        assert [len(one) for one in self.driver.received()] == list(sizes)
        for _ in sizes:
            self.driver.rx.add([], [2048])  # as Linux does, without a kick as long as there are some

    def converse(self, times: int) -> list[int]:
        found = []
        for _ in range(times):
            self.receive(60)
            found.append(self.send(60))
        return found


@pytest.fixture
def kicks() -> Iterator[list[int]]:
    """An eventfd a queue."""
    found = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(3)]
    yield found
    for fd in found:
        os.close(fd)


@pytest.fixture
def host(kicks: list[int]) -> Iterator[OneCpu]:
    with wired() as (driver, wire):
        driver.run()
        yield OneCpu(driver, wire, kicks)


def test_answers_are_sent_by_the_vcpu_once_there_were_many_in_a_row(host: OneCpu) -> None:
    sent = host.converse(ENOUGH)

    assert host.doorbells == [(TX, False)]
    assert sent == [0] * CONVERSATION + [1] * (ENOUGH - CONVERSATION)


@pytest.mark.parametrize(
    ("received", "sent"),
    [((), (60,)), ((60, 60), (60,)), ((1000, 1000), (60,)), ((60,), (SHORT + 1,)), ((60,), (60, 1500))],
    ids=["unasked", "several came", "several long came", "long", "long last"],
)
def test_what_is_no_answer_is_left_to_the_loop(
    host: OneCpu, received: tuple[int, ...], sent: tuple[int, ...]
) -> None:
    at_once = []
    for _ in range(2 * CONVERSATION):
        if received:
            host.receive(*received)
        at_once.append(host.send(*sent))

    assert host.doorbells == []
    assert set(at_once) == {0}


def test_backend_that_wants_its_loop_gets_everything_there(kicks: list[int]) -> None:
    with wired() as (driver, wire):
        wire.sends_in_any_thread = False
        host = OneCpu(driver, wire, kicks)

        assert host.converse(ENOUGH) == [0] * ENOUGH
        assert host.doorbells == []


def test_loop_sends_again_when_the_conversation_is_over(host: OneCpu) -> None:
    host.converse(ENOUGH)
    sent = [host.send(1500) for _ in range(ENOUGH)]
    after = host.converse(1)

    assert host.doorbells == [(TX, False), (TX, True)]
    assert set(sent) == set(after) == {0}


def test_answer_while_the_device_is_at_work_is_left_to_the_loop(host: OneCpu) -> None:
    host.converse(ENOUGH)
    host.receive(60)
    host.driver.tx.add([bytes(12), frame(60)])
    with host.driver.device.runtime.lock:
        on_a_vcpu(host.driver.tx.kick)
        before = host.wire.sent()
    host.driver.run()

    assert before == []
    assert len(host.wire.sent()) == 1


def test_answer_to_a_reset_device_goes_nowhere(host: OneCpu) -> None:
    host.converse(ENOUGH)
    host.receive(60)
    host.driver.tx.add([bytes(12), frame(60)])
    host.driver.reset()
    on_a_vcpu(lambda: host.driver.write(mmio.QUEUE_NOTIFY, 4, TX))
    host.driver.run()

    assert host.wire.sent() == []
