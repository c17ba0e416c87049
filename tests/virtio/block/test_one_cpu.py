"""A vCPU that carries out its own requests to a disk: done when the notification is, and never waited for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from errno import EOPNOTSUPP
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from pyvmm.backends.disk import raw
from pyvmm.backends.disk.raw import RawDisk
from pyvmm.loop import LoopThread
from pyvmm.virtio.one_cpu import MAX_TRANSFER, BlockOnVcpu
from pyvmm.virtio.transport import mmio
from tests.support.disks import DISCARD, FLUSH, IN, OK, OUT, SIZE, WRITE_ZEROES, Bench, header, segment

BLOCK = 4096
PATIENCE = 10


class PromptBench(Bench):
    """The device's loop turns in a thread of its own; this one is the vCPU's."""

    def __init__(self, path: Path, *, in_memory: bool) -> None:
        super().__init__(path)
        self.driver.reset()
        self.disk.in_memory, self.disk.nonblocking_reads = in_memory, True
        self.thread = LoopThread("disk")
        running = threading.Event()
        self.thread.loop.call_soon(running.set)
        assert running.wait(PATIENCE)
        self.device.runtime.loop = self.thread.loop
        self.driver.transport._kick = lambda queue: self.thread.loop.call_soon(
            lambda: self.device.runtime.run_queue(queue)
        )
        BlockOnVcpu(self.device, self.driver.transport, lambda *_: None)
        self.driver.probe()
        #: Which thread did what to the disk.
        self.calls: list[tuple[str, bool]] = []

    def __exit__(self, *_: object) -> None:
        self.thread.close()
        self.driver.close()

    def spy(self, *names: str) -> None:
        for name in names:
            setattr(self.disk, name, self._told(name, getattr(self.disk, name)))

    def _told(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        vcpu = threading.get_ident()

        def told(*arguments: object) -> Any:
            self.calls.append((name, threading.get_ident() == vcpu))
            return method(*arguments)

        return told

    def idle(self) -> None:
        """Wait until the loop has done what it was asked to."""
        over = threading.Event()
        self.thread.loop.call_soon(over.set)
        assert over.wait(PATIENCE)

    def busy_loop(self) -> threading.Event:
        """Keep the loop from doing anything until the event is set."""
        begun, go = threading.Event(), threading.Event()
        self.thread.loop.call_soon(lambda: (begun.set(), go.wait(PATIENCE)))
        assert begun.wait(PATIENCE)
        return go

    def kick(self, *requests: tuple[list[bytes], list[int]]) -> tuple[int, int]:
        """How many of *requests* are done after the kick, and how many in the end."""
        ring = self.driver.queues[0]
        made = [ring.add(readable, writable) for readable, writable in requests]
        ring.kick()
        ring.collect()
        first = sum(request.done for request in made)
        self.driver.run(lambda: [ring.collect(), all(request.done for request in made)][1])
        assert all(ring.data(request)[-1] == OK for request in made)
        return first, len(made)


@pytest.fixture
def path() -> Iterator[Path]:
    with TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder) / "disk.img"


def wanted(sector: int = 0) -> tuple[list[bytes], list[int]]:
    return [header(IN, sector)], [BLOCK, 1]


def written(sector: int = 0) -> tuple[list[bytes], list[int]]:
    return [header(OUT, sector), os.urandom(BLOCK)], [1]


@pytest.mark.parametrize("request_", [wanted(8), written(8), ([header(FLUSH)], [1])])
def test_request_to_an_image_in_memory_is_done_when_the_kick_is(
    path: Path, request_: tuple[list[bytes], list[int]]
) -> None:
    with PromptBench(path, in_memory=True) as bench:
        bench.idle()  # every queue is run once after the start

        assert bench.kick(request_) == (1, 1)


def test_read_of_what_is_in_the_cache_is_done_when_the_kick_is(path: Path) -> None:
    with PromptBench(path, in_memory=False) as bench:
        bench.idle()

        assert bench.kick(wanted()) == (1, 1)


def test_vcpu_serves_one_request_and_the_loop_the_others(path: Path) -> None:
    with PromptBench(path, in_memory=True) as bench:
        bench.idle()
        bench.spy("read_now")
        bench.kick(*[wanted(16 * n) for n in range(5)])

        assert bench.calls == [("read_now", True), *[("read_now", False)] * 4]


def test_what_would_wait_is_left_to_the_loop_in_its_order(path: Path) -> None:
    with PromptBench(path, in_memory=False) as bench:
        bench.idle()
        bench.spy("write", "flush", "read")
        bench.disk.read_now = lambda *_: False  # type: ignore[method-assign]
        bench.kick(written())
        bench.kick(([header(FLUSH)], [1]))
        bench.kick(wanted())

        assert bench.calls == [("write", False), ("flush", False), ("read", False)]


def test_kick_while_the_disk_waits_for_its_medium_does_not_wait(path: Path) -> None:
    with PromptBench(path, in_memory=False) as bench:
        bench.idle()
        begun, go, flush = threading.Event(), threading.Event(), bench.disk.flush

        def slow() -> None:
            begun.set()
            assert go.wait(PATIENCE)
            flush()

        bench.disk.flush = slow  # type: ignore[method-assign]
        ring = bench.driver.queues[0]
        flushing = ring.add([header(FLUSH)], [1])
        ring.kick()
        assert begun.wait(PATIENCE)
        reading = ring.add([header(IN)], [BLOCK, 1])
        ring.kick()
        before = [ring.collect(), flushing.done, reading.done]
        go.set()
        bench.driver.run(lambda: [ring.collect(), flushing.done and reading.done][1])

        assert before == [[], False, False]


def test_reset_forgets_what_was_left_to_the_loop(path: Path) -> None:
    with PromptBench(path, in_memory=False) as bench:
        bench.idle()
        bench.spy("write")
        go = bench.busy_loop()
        ring = bench.driver.queues[0]
        request = ring.add(*written())
        ring.kick()
        ring.collect()
        left = not request.done
        bench.driver.reset()
        bench.driver.probe()
        go.set()
        bench.idle()

        assert left
        assert bench.calls == []
        assert bench.kick(written()) == (0, 1)
        assert bench.calls == [("write", False)]


def test_saved_state_has_what_was_left_to_the_loop_as_not_taken(path: Path) -> None:
    with PromptBench(path, in_memory=False) as bench:
        bench.idle()
        go = bench.busy_loop()
        ring = bench.driver.queues[0]
        request = ring.add(*written())
        ring.kick()
        done_before = [ring.collect(), request.done]
        state = bench.driver.transport.save()
        go.set()
        bench.driver.transport.load(state)
        bench.driver.run(lambda: [ring.collect(), request.done][1])

        assert done_before == [[], False]
        assert ring.data(request)[-1] == OK
        assert bench.device.runtime.queues[0].in_flight == 0


@pytest.mark.parametrize("other_vcpus", [0, 1])
def test_every_request_comes_back_whoever_carries_it_out(path: Path, other_vcpus: int) -> None:
    with PromptBench(path, in_memory=False) as bench:
        bench.idle()
        asked = [0]
        read_now = bench.disk.read_now

        def sometimes(*arguments: Any) -> bool:
            asked[0] += 1
            return asked[0] % 3 > 0 and read_now(*arguments)

        bench.disk.read_now = sometimes  # type: ignore[method-assign]
        over = threading.Event()

        def other_vcpu() -> None:
            while not over.is_set():
                bench.driver.write(mmio.QUEUE_NOTIFY, 4, 0)

        others = [threading.Thread(target=other_vcpu) for _ in range(other_vcpus)]
        for other in others:
            other.start()
        try:
            for turn in range(50 if other_vcpus else 300):
                bench.kick(*[(wanted if (turn + n) % 2 else written)(8 * n) for n in range(turn % 7 + 1)])
        finally:
            over.set()
            for other in others:
                other.join(PATIENCE)
        assert not any(other.is_alive() for other in others)
        assert bench.device.runtime.queues[0].in_flight == 0


def test_long_transfers_and_what_frees_or_zeroes_space_are_left_to_the_loop(path: Path) -> None:
    with PromptBench(path, in_memory=True) as bench:
        bench.idle()
        bench.spy("read_now", "discard", "write_zeroes")
        long = (MAX_TRANSFER >> 16) + 1
        bench.kick(([header(IN)], [*[1 << 16] * long, 1]))
        bench.kick(([header(DISCARD), segment(0, 8)], [1]))
        bench.kick(([header(WRITE_ZEROES), segment(0, 8)], [1]))

        assert bench.calls == [("read_now", False), ("discard", False), ("write_zeroes", False)]


def test_image_in_memory_is_told_from_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(bytes(SIZE))
    found = []
    for in_memory, answer in (
        (True, None),
        (False, 1),
        (False, BlockingIOError()),
        (False, OSError(EOPNOTSUPP, "")),
    ):
        with monkeypatch.context() as patch:
            if answer is not None:
                patch.setattr(raw, "_TMPFS_MAGIC", 0)
                patch.setattr(raw.os, "preadv", answering(answer))
            disk = RawDisk(str(path))
            found.append((disk.in_memory == in_memory, disk.nonblocking_reads))
            disk.close()

    assert found == [(True, True), (True, True), (True, True), (True, False)]


def answering(answer: int | OSError) -> Callable[..., int]:
    """What the system calls answer."""

    def call(*_: object) -> int:
        if isinstance(answer, OSError):
            raise answer
        return answer

    return call
