"""Threads that stand, go on, and are let go, in every order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from pyvmm.machine.gate import Gate

LIMIT = 20.0


@pytest.fixture
def start() -> Iterator[Callable[[Callable[[], object]], threading.Thread]]:
    """Runs functions in threads; all have to end."""
    threads = []

    def run(function: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=function, daemon=True)
        thread.start()
        threads.append(thread)
        return thread

    yield run
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_stand_when_open_goes_on() -> None:
    Gate(1).stand()


def test_wait_when_open_returns() -> None:
    Gate(1).wait()


def test_wait_when_shut_returns_once_all_stand(start: Callable[..., threading.Thread]) -> None:
    gate = Gate(2)
    gate.shut()
    start(gate.stand)
    waiter = start(gate.wait)
    assert waiter.is_alive()

    start(gate.stand)
    waiter.join(LIMIT)

    assert not waiter.is_alive()
    gate.open()


def test_wait_when_all_stand_already_returns(start: Callable[..., threading.Thread]) -> None:
    gate = Gate(1)
    gate.shut()
    start(gate.stand)

    gate.wait()
    gate.wait()

    gate.open()


def test_wait_when_opened_before_all_stand_returns(start: Callable[..., threading.Thread]) -> None:
    gate = Gate(2)
    gate.shut()
    waiters = [start(gate.wait) for _ in range(3)]

    gate.open()

    for waiter in waiters:
        waiter.join(LIMIT)
        assert not waiter.is_alive()


def test_shut_when_removed_stops_nobody() -> None:
    gate = Gate(1)
    gate.remove()

    gate.shut()

    gate.stand()
    gate.wait()


def test_gate_when_shut_and_opened_all_the_time_loses_nobody(start: Callable[..., threading.Thread]) -> None:
    gate = Gate(3)
    over = threading.Event()
    passages = [0, 0, 0]

    def vcpu(index: int) -> None:
        while not over.is_set():
            gate.stand()
            passages[index] += 1

    for index in range(3):
        start(lambda index=index: vcpu(index))
    for _ in range(300):
        gate.shut()
        gate.wait()
        before = list(passages)
        assert passages == before
        gate.open()
    over.set()
    gate.remove()

    assert min(passages) > 0


def test_hooks_when_all_stand_are_called_once_each_and_before_any_goes_on(
    start: Callable[..., threading.Thread],
) -> None:
    events: list[str] = []
    gate = Gate(2, lambda: events.append("stopped"), lambda: events.append("continues"))

    def vcpu() -> None:
        gate.stand()
        events.append("runs")

    gate.shut()
    one = start(vcpu)
    gate.open()  # not all had stopped
    one.join(LIMIT)
    gate.shut()
    threads = [start(vcpu), start(vcpu)]
    gate.wait()
    before = list(events)
    gate.open()
    for thread in threads:
        thread.join(LIMIT)

    assert before == ["runs", "stopped"]
    assert events == ["runs", "stopped", "continues", "runs", "runs"]


def test_hooks_when_the_gate_is_removed_are_over(start: Callable[..., threading.Thread]) -> None:
    events: list[str] = []
    gate = Gate(1, lambda: events.append("stopped"), lambda: events.append("continues"))
    gate.shut()
    thread = start(gate.stand)
    gate.wait()

    gate.remove()
    thread.join(LIMIT)

    assert events == ["stopped"]


def test_threads_when_a_hook_raises_go_on(start: Callable[..., threading.Thread]) -> None:
    def fails() -> None:
        raise OSError("KVM refuses")

    gate = Gate(1, continues=fails)
    gate.shut()
    thread = start(gate.stand)
    gate.wait()

    with pytest.raises(OSError, match="KVM refuses"):
        gate.open()

    thread.join(LIMIT)
    assert not thread.is_alive()
