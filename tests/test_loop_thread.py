"""A loop in a thread of its own: it works, it ends, and what went wrong in it is told."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from pyvmm import loop as module
from pyvmm.errors import StartError
from pyvmm.loop import READ, LoopThread

PATIENCE = 10.0
#: Prints for how much memory beside a thread's stack a loop's thread neither works nor is refused.
LITTLE_MEMORY = """
import os, resource
from _thread import allocate_lock
import mmap
from pyvmm.errors import StartError
from pyvmm.loop import LoopThread
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
size += resource.getrlimit(resource.RLIMIT_STACK)[0]
def works():
    done = allocate_lock()
    done.acquire()
    try:
        thread = LoopThread("test")
        thread.loop.call_soon(done.release)
    except (StartError, MemoryError):
        return True
    return done.acquire(timeout=5)
lost = []
for more in range(0, 160 << 10, 8 << 10):
    pid = os.fork()
    if not pid:
        resource.setrlimit(resource.RLIMIT_AS, (size + more, size + more))
        os._exit(not works())
    if os.waitpid(pid, 0)[1]:
        lost.append(more)
print(lost)
"""


def test_thread_when_asked_calls_in_a_thread_of_its_own() -> None:
    thread = LoopThread("test")
    done = threading.Event()
    callers: list[int] = []
    thread.loop.call_soon(lambda: (callers.append(threading.get_ident()), done.set()))
    assert done.wait(PATIENCE)
    thread.close()

    assert callers != [threading.get_ident()]


def test_close_when_a_callback_is_under_way_waits_for_it_and_nothing_runs_after() -> None:
    thread = LoopThread("test")
    inside, go = threading.Event(), threading.Event()
    order: list[str] = []

    def slow() -> None:
        inside.set()
        go.wait(PATIENCE)
        order.append("callback")

    thread.loop.call_soon(slow)
    assert inside.wait(PATIENCE)
    threading.Timer(0.05, go.set).start()
    thread.close()
    order.append("closed")
    thread.loop.call_soon(lambda: order.append("too late"))

    assert order == ["callback", "closed"]


def test_close_when_a_callback_raised_raises_it_once() -> None:
    thread = LoopThread("test")
    begun = threading.Event()
    thread.loop.call_soon(lambda: (begun.set(), 1 / 0))
    assert begun.wait(PATIENCE)
    with pytest.raises(ZeroDivisionError):
        thread.close()

    thread.close()


def test_callback_when_it_raises_and_somebody_asked_for_errors_does_not_end_the_thread() -> None:
    thread = LoopThread("test")
    errors: list[BaseException] = []
    done = threading.Event()
    thread.loop.on_error = errors.append
    thread.loop.call_soon(lambda: 1 / 0)
    thread.loop.call_soon(done.set)
    assert done.wait(PATIENCE)
    thread.close()

    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_close_when_done_gives_every_descriptor_and_thread_back() -> None:
    LoopThread("first").close()
    files, threads = set(os.listdir("/proc/self/fd")), set(os.listdir("/proc/self/task"))
    for _ in range(50):
        LoopThread("test").close()

    assert set(os.listdir("/proc/self/fd")) == files
    assert len(os.listdir("/proc/self/task")) <= len(threads) + 1  # the last may be about to end


def test_descriptor_when_added_and_removed_by_another_thread_is_obeyed() -> None:
    thread = LoopThread("test")
    event = os.eventfd(0, os.EFD_NONBLOCK)
    seen = threading.Semaphore(0)

    def take(_: int) -> None:
        os.eventfd_read(event)
        seen.release()

    thread.loop.add(event, READ, take)
    for _ in range(100):
        os.eventfd_write(event, 1)
        assert seen.acquire(timeout=PATIENCE)
    thread.loop.remove(event)
    os.eventfd_write(event, 1)
    thread.close()
    os.close(event)

    assert not seen.acquire(blocking=False)


def test_thread_when_the_host_gives_none_says_so_and_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "start_new_thread", refuse)
    before = set(os.listdir("/proc/self/fd"))

    with pytest.raises(StartError, match="this host gives no thread to net0; raise the limit of processes"):
        LoopThread("net0")

    assert set(os.listdir("/proc/self/fd")) == before


def test_thread_where_memory_is_short_works_or_is_refused() -> None:
    words = [
        sys.executable,
        "-c",
        f"import resource\nresource.setrlimit(resource.RLIMIT_STACK, (8 << 20, -1))\n{LITTLE_MEMORY}",
    ]

    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)

    assert (done.returncode, done.stdout) == (0, "[]\n"), done
