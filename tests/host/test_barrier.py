"""The barrier between a store and a later load: what the suppression of notifications rests on.

One side publishes and then looks whether the other sleeps; the other says that it sleeps and then looks for
more. Where both could look before the other's store is seen, a wake-up is lost and both wait for ever.
Threads of one interpreter are ordered by its lock as well: this tests the order of steps. A guest's processor
is not, and tests/integration/test_virtio_firmware.py does the same with one.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from pyvmm.host import barrier
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import Anonymous
from pyvmm.testing import FakeDriver
from pyvmm.virtio.features import F_EVENT_IDX, F_VERSION_1
from pyvmm.virtio.ring.queue import Queue

#: Seconds each stress runs; then every chain must have come through.
SECONDS = 2.0
#: A side that waits this long for a wake-up has lost it.
LOST = 5.0


@pytest.fixture
def short_switches() -> Iterator[None]:
    kept = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(kept)


class DeviceSide(threading.Thread):
    """Takes chains and completes them at once; sleeps between kicks."""

    def __init__(self, queue: Queue, kick: threading.Semaphore, interrupt: threading.Semaphore) -> None:
        super().__init__(daemon=True)
        self.queue = queue
        self.kick = kick
        self.interrupt = interrupt
        self.sleeps = 0
        self.over = False
        self.lost = False

    def run(self) -> None:
        queue = self.queue
        while not self.over:
            queue.disable_notification()
            while True:
                while (chain := queue.pop()) is not None:
                    queue.push(chain, 0)
                if not queue.enable_notification():
                    break
                queue.disable_notification()
            if queue.publish():
                self.interrupt.release()
            self.sleeps += 1
            if not self.kick.acquire(timeout=LOST):
                self.lost = not self.over
                return


@pytest.mark.parametrize("features", [F_VERSION_1, F_VERSION_1 | F_EVENT_IDX], ids=["flags", "event index"])
def test_notifications_when_both_sides_suppress_them_are_never_lost(
    features: int, short_switches: None
) -> None:
    from tests.support.rings import Copier

    kick, interrupt = threading.Semaphore(0), threading.Semaphore(0)
    with FakeDriver(Copier(), features=features) as driver:
        memory, ring = driver.memory, driver.queues[0]
        driver.transport._kick = lambda queue: kick.release()
        ring.describe(0, memory.regions[0].gpa, 1)
        device = DeviceSide(driver.device.runtime.queues[0], kick, interrupt)
        device.start()
        offered = waits = 0
        used_event = ring.avail + 4 + 2 * ring.size
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and not device.lost:
            for _ in range(1 + offered % ring.size):
                ring.offer(0)
                offered += 1
            ring.kick()
            # Until all are used, asleep: say so (2.7.7), look again, and only then wait.
            while memory.read_u16(ring.used + 2) != ring.avail_idx:
                memory.write_u16(used_event, (ring.avail_idx - 1) & 0xFFFF)
                memory.write_u16(ring.avail, 0)
                barrier.full_barrier()
                if memory.read_u16(ring.used + 2) != ring.avail_idx:
                    waits += 1
                    assert interrupt.acquire(timeout=LOST), f"an interrupt was lost after {offered} chains"
                memory.write_u16(ring.avail, 1)
        device.over = True
        kick.release()
        device.join(LOST)

    assert not device.lost, f"a kick was lost after {offered} chains"
    assert offered > 1000 and waits > 100 and device.sleeps > 100


def test_guest_memory_when_a_ring_index_is_read_and_written_takes_whole_words() -> None:
    # One thread writes numbers of two equal bytes; a torn access would show others.
    memory = GuestMemory([Region(0, 4096, Anonymous(4096))])
    done = threading.Event()

    def write() -> None:
        n = 0
        while not done.is_set():
            n = (n + 1) & 0xFF
            memory.write_u16(2, n * 0x101)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        values = {memory.read_u16(2) for _ in range(50_000)}
    finally:
        done.set()
        thread.join()
        memory.close()
    assert all(value & 0xFF == value >> 8 for value in values)


def test_barrier_when_many_threads_use_it_at_once_lets_all_go_on() -> None:
    threads = [
        threading.Thread(target=lambda: [barrier.full_barrier() for _ in range(20_000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert not any(thread.is_alive() for thread in threads)


def test_no_page_of_the_process_is_both_writable_and_executable() -> None:
    program = "import pyvmm.host.barrier; print(open('/proc/self/maps').read())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    rights = {line.split()[1][:3] for line in done.stdout.splitlines() if line}
    assert "r-x" in rights and "rwx" not in rights
