"""Transfers that wait for the medium: several at a time, and none lost or late."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from pyvmm.backends.disk.pool import DEPTH, Pool
from tests.support import process
from tests.support.disks import IN, IOERR, OK, OUT, Bench, header

BLOCK = 4096


class Slow:
    """Makes reads of a disk wait until they are let go; none finds its data in memory."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)
        self._read = bench.disk.read
        monkeypatch.setattr(bench.disk, "read_now", lambda *_: False)
        monkeypatch.setattr(bench.disk, "read", self.read)

    def read(self, views: Sequence[memoryview], offset: int, size: int) -> None:
        self.begun.release()
        assert self.gate.wait(10)
        self._read(views, offset, size)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


def test_reads_that_wait_are_under_way_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench(path) as bench:
        slow = Slow(bench, monkeypatch)
        ring = bench.driver.queues[0]
        made = [ring.add([header(IN, 16 * n)], [BLOCK, 1]) for n in range(DEPTH)]
        ring.kick()
        bench.driver.run()
        together = [slow.begun.acquire(timeout=10) for _ in range(DEPTH)]
        slow.gate.set()
        bench.driver.run(lambda: [ring.collect(), all(request.done for request in made)][1])
        image = bench.image

        assert all(together)
        assert [ring.data(request) for request in made] == [
            image[2 * BLOCK * n : 2 * BLOCK * n + BLOCK] + b"\0" for n in range(DEPTH)
        ]


def test_request_that_need_not_wait_overtakes_one_that_does(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bench(path) as bench:
        slow = Slow(bench, monkeypatch)
        ring = bench.driver.queues[0]
        waiting = ring.add([header(IN)], [BLOCK, 1])
        ring.kick()
        bench.driver.run()
        status = bench.write(100, bytes(512))
        overtaken = not waiting.done
        slow.gate.set()
        bench.driver.run(lambda: ring.collect() or waiting.done)

    assert (status, overtaken) == (OK, True)


def test_reset_waits_for_reads_under_way_and_gives_nothing_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bench(path) as bench:
        slow = Slow(bench, monkeypatch)
        ring = bench.driver.queues[0]
        for n in range(3):
            ring.add([header(IN, 16 * n)], [BLOCK, 1])
        ring.kick()
        bench.driver.run()
        for _ in range(3):
            assert slow.begun.acquire(timeout=10)
        resetting = threading.Thread(target=bench.driver.reset)
        resetting.start()
        resetting.join(0.05)
        waited = resetting.is_alive()
        slow.gate.set()
        resetting.join(10)
        bench.driver.run()

        assert waited
        assert ring.collect() == []
        bench.driver.probe()
        assert bench.ask([header(IN)], [512, 1])[0] == OK


def test_saved_state_has_nothing_under_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench(path) as bench:
        slow = Slow(bench, monkeypatch)
        ring = bench.driver.queues[0]
        made = [ring.add([header(IN, 16 * n)], [BLOCK, 1]) for n in range(3)]
        ring.kick()
        bench.driver.run()
        threading.Timer(0.05, slow.gate.set).start()
        bench.driver.transport.save()

        assert len(ring.collect()) == len(made)
        assert bench.device.runtime.queues[0].in_flight == 0


def test_read_that_fails_after_waiting_fails_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench(path) as bench:
        monkeypatch.setattr(bench.disk, "read_now", lambda *_: False)
        os.truncate(path, BLOCK)
        answers = bench.batch([([header(IN, 8 * n)], [BLOCK, 1]) for n in (0, 1, 5)])

    assert [answer[-1] for answer in answers] == [OK, IOERR, IOERR]


def test_direct_disk_gives_every_answer(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(1 << 20))
    from pyvmm.backends.disk.base import DiskError

    try:
        bench = Bench(path, direct=True)
    except DiskError as error:
        pytest.skip(str(error))
    data = os.urandom(BLOCK)
    with bench:
        wrote = bench.batch([([header(OUT, 16 * n), data], [1]) for n in range(8)])
        read = bench.batch([([header(IN, 16 * n)], [BLOCK, 1]) for n in range(8)])

    assert wrote == [b"\0"] * 8
    assert read == [data + b"\0"] * 8


def test_pool_does_every_job_with_few_threads() -> None:
    pool, done, before = Pool(), [], process.threads()
    for n in range(1000):
        pool.submit(lambda n=n: done.append(n))  # type: ignore[misc]

    pool.drain()
    threads = process.threads() - before
    pool.close()
    pool.close()

    assert sorted(done) == list(range(1000))
    assert 1 <= threads <= DEPTH


def test_pool_where_the_host_gives_no_thread_does_the_job_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuses)
    pool, done = Pool(), []

    pool.submit(lambda: done.append(threading.current_thread()))
    pool.close()

    assert done == [threading.current_thread()]
