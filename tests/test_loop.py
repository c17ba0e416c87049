"""The event loop: order, threads, errors, and file descriptors epoll refuses."""

from __future__ import annotations

import os
import select
import threading
import weakref

import pytest

from pyvmm.loop import EDGE, HANGUP, READ, WRITE, Loop


class Clock:
    """Time that moves when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def loop():
    with Loop() as loop:
        yield loop


@pytest.fixture
def event():
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def test_add_when_fd_becomes_readable_calls_back_with_the_events(loop, event):
    seen = []
    loop.add(event, READ, seen.append)
    assert loop.run_once(0) == 0
    os.eventfd_write(event, 1)
    assert loop.run_once(5) == 1
    assert seen == [READ]


def test_add_when_fd_stays_ready_calls_again(loop, event):
    seen = []
    loop.add(event, READ, seen.append)
    os.eventfd_write(event, 1)
    loop.run_once(0)
    loop.run_once(0)
    assert seen == [READ, READ]


def test_add_when_the_event_comes_before_it_returns_calls_back(event, monkeypatch):
    class Eager:
        """The kernel's epoll; the loop's thread takes a turn as soon as *event* is known to it."""

        def __init__(self):
            self._kernels = epoll()

        def __getattr__(self, name):
            return getattr(self._kernels, name)

        def register(self, fd, events):
            self._kernels.register(fd, events)
            if fd == event:
                loop.run_once(0)

    epoll = select.epoll
    monkeypatch.setattr(select, "epoll", Eager)
    os.eventfd_write(event, 1)
    seen = []

    with Loop() as loop:
        loop.add(event, READ | EDGE, seen.append)
        loop.run_once(0)

    assert seen == [READ]


def test_add_when_fd_is_there_already_raises_and_keeps_the_first(loop, event):
    seen = []
    loop.add(event, READ, seen.append)
    with pytest.raises(FileExistsError):
        loop.add(event, READ, lambda events: seen.append("second"))
    os.eventfd_write(event, 1)
    loop.run_once(0)
    assert seen == [READ]


def test_add_when_fd_is_closed_raises(loop, event):
    closed = os.dup(event)
    os.close(closed)
    with pytest.raises(OSError, match="Bad file descriptor"):
        loop.add(closed, READ, print)


def test_modify_when_asked_for_write_reports_write(loop, event):
    seen = []
    loop.add(event, READ, seen.append)
    loop.modify(event, WRITE)
    loop.run_once(0)
    assert seen == [WRITE]


def test_hangup_when_writer_closes_is_reported(loop):
    reader, writer = os.pipe()
    seen = []
    loop.add(reader, READ, seen.append)
    os.close(writer)
    loop.run_once(5)
    assert seen == [HANGUP]
    loop.remove(reader)
    os.close(reader)


def test_remove_when_done_by_an_earlier_callback_of_the_turn_is_obeyed(loop):
    first, second = os.eventfd(1), os.eventfd(1)
    seen = []

    def callback(events):
        seen.append(events)
        loop.remove(first)
        loop.remove(second)

    loop.add(first, READ, callback)
    loop.add(second, READ, callback)
    loop.run_once(0)
    assert seen == [READ]
    os.close(first)
    os.close(second)


def test_remove_when_fd_is_unknown_or_closed_does_nothing(loop):
    fd = os.eventfd(0)
    loop.remove(fd)
    loop.add(fd, READ, print)
    os.close(fd)
    loop.remove(fd)
    assert loop.run_once(0) == 0


@pytest.mark.parametrize("path", ["/dev/null", "file"])
def test_add_when_epoll_refuses_the_fd_calls_once_a_turn_until_removed(loop, tmp_path, path):
    name = path if path.startswith("/") else str(tmp_path / path)
    fd = os.open(name, os.O_RDWR | os.O_CREAT)
    seen = []
    loop.add(fd, READ, seen.append)
    with pytest.raises(FileExistsError):
        loop.add(fd, READ, print)
    assert loop.run_once(None) == 1
    assert loop.run_once(None) == 1
    loop.modify(fd, 0)
    assert loop.run_once(0) == 0
    loop.remove(fd)
    assert loop.run_once(0) == 0
    assert seen == [READ, READ]
    os.close(fd)


def test_paused_refused_fd_does_not_keep_the_loop_from_waiting(loop):
    fd = os.open("/dev/null", os.O_RDONLY)
    loop.add(fd, READ, print)
    loop.modify(fd, 0)
    start = loop.clock()
    loop.run_once(0.05)
    assert loop.clock() - start >= 0.05
    os.close(fd)


def test_call_soon_when_called_from_another_thread_wakes_the_loop(loop):
    caller = []
    thread = threading.Timer(
        0.02, lambda: loop.call_soon(lambda: (caller.append(threading.get_ident()), loop.stop()))
    )
    thread.start()
    loop.run()
    thread.join()
    assert caller == [threading.get_ident()]


def test_call_soon_when_called_by_a_callback_runs_in_the_next_turn(loop):
    seen = []

    def again():
        seen.append(len(seen))
        loop.call_soon(again)

    loop.call_soon(again)
    loop.run_once(0)
    loop.run_once(None)
    assert seen == [0, 1]


def test_call_soon_when_many_threads_call_loses_none(loop):
    count = []
    threads = [
        threading.Thread(target=lambda: [loop.call_soon(lambda: count.append(1)) for _ in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    while len(count) < 2000:
        loop.run_once(10)
    for thread in threads:
        thread.join()
    assert loop.run_once(0) == 0
    assert len(count) == 2000


def test_timers_fire_in_the_order_they_are_due():
    clock = Clock()
    seen = []
    with Loop(clock) as loop:
        loop.call_later(2, lambda: seen.append("two"))
        loop.call_later(1, lambda: seen.append("one"))
        loop.call_later(2, lambda: seen.append("two again"))
        assert loop.run_once(0) == 0
        clock.now += 2
        assert loop.run_once(0) == 3
    assert seen == ["one", "two", "two again"]


def test_timer_when_cancelled_never_fires():
    clock = Clock()
    with Loop(clock) as loop:
        timer = loop.call_later(1, lambda: pytest.fail("fired"))
        assert timer.active
        timer.cancel()
        timer.cancel()
        assert not timer.active
        clock.now += 2
        assert loop.run_once(0) == 0


def test_timer_when_cancelled_by_an_earlier_timer_of_the_turn_never_fires():
    clock = Clock()
    with Loop(clock) as loop:
        loop.call_later(1, lambda: second.cancel())
        second = loop.call_later(1, lambda: pytest.fail("fired"))
        clock.now += 2
        assert loop.run_once(0) == 1


def test_timers_when_made_and_cancelled_forever_do_not_pile_up(loop):
    class Call:
        def __call__(self):
            raise AssertionError("it was cancelled")

    calls = weakref.WeakSet()
    for _ in range(10_000):
        call = Call()
        calls.add(call)
        loop.call_later(3600, call).cancel()
    assert len(calls) < 200


def test_timer_that_renews_itself_at_once_leaves_the_others_their_turn(loop, event):
    seen = []

    def renew():
        loop.call_later(0, renew)

    renew()
    loop.add(event, READ, seen.append)
    os.eventfd_write(event, 1)
    loop.run_once(5)
    loop.run_once(5)
    assert seen == [READ, READ]


def test_timer_when_due_first_shortens_a_wait_that_has_begun(loop):
    thread = threading.Timer(0.02, lambda: loop.call_later(0.01, loop.stop))
    loop.call_later(3600, lambda: pytest.fail("the far timer fired"))
    thread.start()
    loop.run()
    thread.join()


def test_run_when_stopped_before_returns_at_once_and_can_run_again(loop):
    loop.stop()
    loop.run()
    loop.call_soon(loop.stop)
    loop.run()


def test_callback_error_when_nobody_asked_for_it_comes_out_of_run(loop):
    seen = []
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(lambda: seen.append("next"))
    with pytest.raises(ZeroDivisionError):
        loop.run()
    loop.run_once(0)
    assert seen == ["next"]


def test_callback_error_when_on_error_is_set_goes_there_and_the_loop_goes_on(loop, event):
    errors = []
    loop.on_error = errors.append
    os.eventfd_write(event, 1)
    loop.add(event, READ, lambda events: 1 / 0)
    loop.call_later(0, lambda: {}[1])
    loop.call_soon(loop.stop)
    loop.run()
    assert [type(error) for error in errors] == [ZeroDivisionError, KeyError]


def test_close_gives_back_every_descriptor_and_later_calls_do_nothing():
    before = set(os.listdir("/proc/self/fd"))
    loop = Loop()
    assert set(os.listdir("/proc/self/fd")) != before
    loop.close()
    loop.close()
    assert set(os.listdir("/proc/self/fd")) == before
    loop.call_soon(print)
    loop.stop()


def test_event_of_a_closed_file_does_not_reach_its_successor() -> None:
    with Loop() as loop:
        pipes = [os.pipe() for _ in range(3)]
        for _, end in pipes[:2]:
            os.write(end, b"x")
        seen: list[int] = []

        def replace_the_other(mine: int, other: int) -> None:
            # Both have an event in this turn; the other's number now stands for the third, empty pipe.
            seen.append(mine)
            loop.remove(mine)
            loop.remove(other)
            os.dup2(pipes[2][0], other)
            loop.add(other, READ, lambda _: seen.append(other))

        one, two = pipes[0][0], pipes[1][0]
        loop.add(one, READ, lambda _: replace_the_other(one, two))
        loop.add(two, READ, lambda _: replace_the_other(two, one))
        loop.run_once(0)
        loop.run_once(0)

    for pair in pipes:
        for fd in pair:
            os.close(fd)
    assert len(seen) == 1
