"""Eventfds that another process shares: signalled whatever it does to them, and without waiting for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from pyvmm.host.eventfd import EventSignaller

#: The most an eventfd's counter can be made by writes, and by the kernel.
FULL, MOST = 2**64 - 2, 2**64 - 1

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def signaller() -> Iterator[EventSignaller]:
    before = len(os.listdir("/proc/self/fd"))
    signaller = EventSignaller()
    yield signaller
    signaller.close()
    signaller.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_signals_more_than_the_ring_of_completions_holds_are_all_counted(signaller: EventSignaller) -> None:
    fd = os.eventfd(0)
    signal = signaller.signal(fd)
    for _ in range(10_000):
        signal()
    count = os.eventfd_read(fd)
    os.close(fd)

    assert count == 10_000


def test_signals_of_many_threads_are_all_counted(signaller: EventSignaller) -> None:
    fd = os.eventfd(0)
    signal = signaller.signal(fd)
    threads = [threading.Thread(target=lambda: [signal() for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count = os.eventfd_read(fd)
    os.close(fd)

    assert count == 8000


def test_eventfd_that_is_full_and_blocks_is_signalled_without_waiting(signaller: EventSignaller) -> None:
    fd = os.eventfd(0)
    os.eventfd_write(fd, FULL)
    signal = signaller.signal(fd)
    signal()
    signal()
    count = os.eventfd_read(fd)
    os.close(fd)

    assert count == MOST


def test_file_that_is_no_eventfd_is_left_alone(signaller: EventSignaller) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    signaller.signal(writer)()
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    os.close(reader)
    os.close(writer)
