"""The machine's clock: what a stop holds back, and what is left afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pyvmm.loop import Loop
from pyvmm.machine.clock import MachineClock

LIMIT = 20.0


class Bench:
    """A loop whose clock the test moves, a machine's clock on it, and the names of the calls made."""

    def __init__(self) -> None:
        self.now = 100.0
        self.loop = Loop(lambda: self.now)
        self.machine = MachineClock(self.loop)
        self.called: list[str] = []

    def call_later(self, seconds: float, name: str):
        return self.machine.call_later(seconds, lambda: self.called.append(name))

    def move(self, seconds: float) -> list[str]:
        """Let time pass and the loop turn; what was called."""
        self.now += seconds
        self.loop.run_once(0)
        called, self.called = self.called, []
        return called


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    with bench.loop:
        yield bench


def test_clock_is_the_loops_until_it_is_stopped(bench: Bench) -> None:
    bench.move(5)

    assert bench.machine.clock() == 105


def test_timer_when_due_is_called_once(bench: Bench) -> None:
    timer = bench.call_later(5, "a")

    assert [bench.move(4), bench.move(1), bench.move(9)] == [[], ["a"], []]
    assert not timer.active


def test_clock_when_stopped_stands_still_and_goes_on_from_there(bench: Bench) -> None:
    bench.machine.stop()
    bench.move(1000)
    assert bench.machine.clock() == 100

    bench.machine.start()
    bench.move(3)

    assert bench.machine.clock() == 103


def test_timer_when_the_clock_is_stopped_has_afterwards_what_was_left(bench: Bench) -> None:
    bench.call_later(5, "a")
    bench.move(3)
    bench.machine.stop()
    assert bench.move(1000) == []

    bench.machine.start()

    assert [bench.move(1.9), bench.move(0.2)] == [[], ["a"]]


def test_timer_when_stopped_twice_has_what_was_left_both_times(bench: Bench) -> None:
    bench.call_later(5, "a")
    for _ in range(2):
        bench.move(2)
        bench.machine.stop()
        bench.move(50)
        bench.machine.start()

    assert [bench.move(0.9), bench.move(0.2)] == [[], ["a"]]


def test_timer_when_made_while_stopped_waits_for_the_start(bench: Bench) -> None:
    bench.machine.stop()
    bench.call_later(0, "a")
    bench.call_later(2, "b")
    assert bench.move(10) == []

    bench.machine.start()

    assert [bench.move(0), bench.move(1.9), bench.move(0.2)] == [["a"], [], ["b"]]


def test_timers_when_started_again_are_called_in_the_order_they_are_due(bench: Bench) -> None:
    for seconds, name in ((3, "c"), (1, "a"), (2, "b"), (1, "a2")):
        bench.call_later(seconds, name)
    bench.machine.stop()
    bench.machine.start()

    assert bench.move(5) == ["a", "a2", "b", "c"]


@pytest.mark.parametrize("stopped", [False, True])
def test_timer_when_cancelled_is_never_called(bench: Bench, stopped: bool) -> None:
    timer = bench.call_later(1, "a")
    if stopped:
        bench.machine.stop()

    timer.cancel()
    timer.cancel()
    bench.machine.start()

    assert bench.move(10) == []
    assert not timer.active


def test_stop_when_the_loop_has_taken_the_timer_already_holds_it_back(bench: Bench) -> None:
    bench.call_later(1, "first")
    bench.call_later(1, "second")
    bench.loop.call_later(1, bench.machine.stop)  # of one turn: it comes after the two were found to be due
    bench.call_later(1, "third")

    assert bench.move(1) == ["first", "second"]

    bench.machine.start()
    assert bench.move(0) == ["third"]


def test_start_and_stop_when_repeated_change_nothing(bench: Bench) -> None:
    bench.machine.start()
    bench.machine.stop()
    bench.move(7)
    bench.machine.stop()
    bench.machine.start()
    bench.machine.start()

    assert bench.machine.clock() == 100


def test_close_cancels_what_waits_and_what_comes_later(bench: Bench) -> None:
    bench.call_later(1, "a")
    bench.machine.close()
    bench.call_later(1, "b")
    bench.machine.stop()
    bench.machine.start()

    assert bench.move(10) == []


def test_function_when_it_raises_comes_out_of_the_loop_and_the_clock_goes_on(bench: Bench) -> None:
    bench.machine.call_later(1, lambda: 1 / 0)
    bench.call_later(2, "a")

    with pytest.raises(ZeroDivisionError):
        bench.move(1)

    assert bench.move(1) == ["a"]


def test_function_may_stop_settle_and_cancel(bench: Bench) -> None:
    other = bench.call_later(1, "other")

    def everything() -> None:
        bench.machine.stop()
        bench.machine.settle()
        other.cancel()
        bench.called.append("everything")

    bench.machine.call_later(0.5, everything)

    assert bench.move(1) == ["everything"]


def test_clock_for_another_loop_is_stopped_started_and_closed_with_the_first(bench: Bench) -> None:
    now = [7.0]
    with Loop(lambda: now[0]) as loop:
        other = bench.machine.for_loop(loop)
        called: list[str] = []

        def move(seconds: float) -> list[str]:
            now[0] += seconds
            loop.run_once(0)
            return called

        other.call_later(5, lambda: called.append("a"))
        bench.move(5)
        move(4)
        bench.machine.stop()
        stopped = list(move(100)), other.clock(), other.stopped
        bench.machine.start()
        early = list(move(0.5))
        assert (stopped, early) == (([], 11.0, True), [])
        assert move(0.5) == ["a"]

        timer = other.call_later(1, lambda: called.append("b"))
        bench.machine.close()
        assert not timer.active
        assert move(5) == ["a"]


def test_clock_for_its_own_loop_is_itself(bench: Bench) -> None:
    assert bench.machine.for_loop(bench.loop) is bench.machine


def test_settle_in_another_thread_waits_for_the_function_that_is_being_called() -> None:
    with Loop() as loop:
        clock = MachineClock(loop)
        inside, leave, settled = threading.Event(), threading.Event(), threading.Event()
        clock.call_later(0, lambda: (inside.set(), leave.wait(LIMIT)))
        turns = threading.Thread(target=lambda: loop.run_once(LIMIT), daemon=True)
        turns.start()
        assert inside.wait(LIMIT)

        def settle() -> None:
            clock.stop()
            clock.settle()
            settled.set()

        waiter = threading.Thread(target=settle, daemon=True)
        waiter.start()
        assert not settled.wait(0.1)
        leave.set()

        assert settled.wait(LIMIT)
        for thread in (turns, waiter):
            thread.join(LIMIT)
            assert not thread.is_alive()
