"""queue: what the device's side of a virtqueue costs a chain: pop, push, one publish a batch.

The peer does the least any Python program must: each descriptor one struct read, each buffer one view, each
used element two stores. No rule is checked there, and no chain is made of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from struct import Struct

from common import Row, interleave, pairs_row, progress

from pyvmm.testing import FakeDriver
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.ring.chain import Chain

BATCH = 64
BATCHES = 400
#: A block request: header, data, status.
SHAPE = ((16,), (4096, 1))
DESCRIPTOR = Struct("QIHH").unpack_from


class Sink(VirtioDevice):
    """Completes everything unused."""

    queue_sizes = (256,)

    def handle(self, queue: int, chain: Chain) -> None:
        pass


def measure(options: argparse.Namespace) -> list[Row]:
    rows = []
    for name, indirect in (("three descriptors", False), ("three in an indirect table", True)):
        runs = {
            "pyvmm": partial(_nanoseconds, _serve, indirect),
            "loads alone": partial(_nanoseconds, _bare, indirect),
        }
        times = interleave(runs, options.pairs, progress)
        rows.append(pairs_row(name, "ns", times["pyvmm"], "loads alone", times["loads alone"]))
    times = interleave({"pyvmm": partial(_nanoseconds, _kicked, False)}, options.pairs, progress)
    kicked = sorted(times["pyvmm"])
    rows.append(Row("the same by a device's handle", "ns", kicked[len(kicked) // 2], samples=times))
    return rows


def notes(options: argparse.Namespace) -> list[str]:
    return [f"a chain, in batches of {BATCH}; the best of {BATCHES} batches a round"]


def _nanoseconds(serve: Callable[[FakeDriver], None], indirect: bool) -> float:
    best = float("inf")
    readable, writable = [bytes(size) for size in SHAPE[0]], SHAPE[1]
    with FakeDriver(Sink()) as driver:
        ring = driver.queues[0]
        for _ in range(BATCHES):
            for _ in range(BATCH):
                ring.add(readable, writable, indirect=indirect)
            start = time.perf_counter()
            serve(driver)
            best = min(best, time.perf_counter() - start)
            ring.collect()
    return best / BATCH * 1e9


def _serve(driver: FakeDriver) -> None:
    queue = driver.device.runtime.queues[0]
    while (chain := queue.pop()) is not None:
        queue.push(chain, 0)
    queue.publish()


def _kicked(driver: FakeDriver) -> None:
    driver.device.runtime.run_queue(0)


def _bare(driver: FakeDriver) -> None:
    ring, ram = driver.queues[0], driver.memory.regions[0]
    base, memory = ram.gpa, ram.buffer
    halves, words = memory.cast("H"), memory.cast("I")
    avail, used = (ring.avail - base >> 1) + 2, (ring.used - base >> 2) + 1
    at, end, mask = ring.used_idx, ring.avail_idx, ring.size - 1
    while at != end:
        head = halves[avail + (at & mask)]
        table, index = ring.desc - base, head
        flags = 1
        while flags & 1:
            address, size, flags, following = DESCRIPTOR(memory, table + 16 * index)
            address -= base
            if flags & 4:
                table, index, flags = address, 0, 1
                continue
            memory[address : address + size]
            index = following
        slot = used + 2 * (at & mask)
        words[slot] = head
        words[slot + 1] = 0
        at = (at + 1) & 0xFFFF
    halves[(ring.used - base >> 1) + 1] = at
    # As if the device had done it, for the next batch.
    queue = driver.device.runtime.queues[0]
    queue._next_avail = queue._avail_idx = queue._next_used = queue._published = queue._visible = at
