"""A guest driver made of bytes: it sets a virtio device up and uses it, mostly as the specification says.

Every byte string is a program. Most of its steps are what a driver does, so that a random program gets far;
each of the others breaks a rule. What must hold whatever the guest does is asserted after each step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyvmm.host import notice, rate_limit
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import Anonymous
from pyvmm.testing import FakeDriver
from pyvmm.virtio import features as f
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.transport import mmio
from tests.fuzz.oracle import Oracle

PAGE = 4096
#: Two adjacent regions of RAM, a gap, and a ROM.
LOW, SEAM, HIGH_END = 0x10000, 0x20000, 0x30000
ROM = 0x40000
#: Where queue n's rings lie: two pages each, from here on; the seam goes through the second one.
RINGS = SEAM - 3 * PAGE
BUFFERS = LOW
CANARY = b"\xa5" * PAGE
#: Limits of one program: steps, turns of the loop, seconds of CPU time. Beyond them it hangs.
STEPS, TURNS, SECONDS = 300, 2000, 10.0
SIZES = (4, 8, 16, 1)
ODD_SIZES = (
    0,
    1,
    2,
    12,
    15,
    16,
    17,
    44,
    64,
    512,
    4096,
    0x10000,
    0x20000,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    0x8000_0000,
)
ODD_ADDRESSES = (
    0,
    LOW - 1,
    SEAM - 1,
    SEAM - 16,
    HIGH_END - 1,
    HIGH_END - 16,
    HIGH_END,
    ROM,
    ROM + PAGE - 1,
    1 << 32,
    1 << 63,
    (1 << 64) - 1,
    (1 << 64) - PAGE,
    RINGS,
    RINGS + PAGE,
    mmio.SIZE,
)
WIDTHS = (4, 4, 4, 1, 2, 8)

Feed = Callable[[VirtioDevice, bytes], object]


class Tape:
    """The program: bytes taken one after the other; zeroes behind its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def byte(self) -> int:
        at = self._at
        self._at = at + 1
        return self._data[at] if at < len(self._data) else 0

    def word(self) -> int:
        return self.byte() | self.byte() << 8

    def take(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        self._at += size
        return data


class Ground:
    """Guest memory, shared by all programs of a process, which run one after the other."""

    def __init__(self) -> None:
        self.hosts = [Anonymous(SEAM - LOW + 2 * PAGE), Anonymous(HIGH_END - SEAM + 2 * PAGE)]
        self.rom = Anonymous(PAGE)
        self.rom.buffer[:] = CANARY
        self.memory = GuestMemory(
            [
                Region(LOW, SEAM - LOW, self.hosts[0], PAGE),
                Region(SEAM, HIGH_END - SEAM, self.hosts[1], PAGE),
                Region(ROM, PAGE, self.rom, readonly=True),
            ]
        )
        self._zeroes = bytes(HIGH_END - LOW)

    def clear(self) -> None:
        self.memory.write(LOW, self._zeroes)
        for host in self.hosts:
            host.buffer[:PAGE] = host.buffer[-PAGE:] = CANARY

    def check(self) -> None:
        around = [bytes(view) for host in self.hosts for view in (host.buffer[:PAGE], host.buffer[-PAGE:])]
        assert around == [CANARY] * 4, "written outside guest memory"
        assert bytes(self.rom.buffer) == CANARY, "a ROM was written"


class Program:
    """One run of *data* against *device*."""

    def __init__(
        self, ground: Ground, device: VirtioDevice, feed: Feed | None, oracle: Oracle, data: bytes
    ) -> None:
        self.tape = Tape(data)
        self.oracle = oracle
        self.memory = ground.memory
        self.device = device
        self.feed = feed
        self.driver = FakeDriver(device, memory=ground.memory, start=False)
        self.size = 1
        self.avail = [0] * len(device.runtime.queues)
        self._end = time.process_time() + SECONDS
        # A step each for the five low bits of a byte: what drivers do is most of it.
        self._steps = (
            *[self.request] * 10,
            *[self.kick] * 4,
            *[self.again] * 3,
            self.indirect,
            self.long_table,
            self.host,
            self.host,
            self.data,
            self.descriptor,
            self.descriptor,
            self.offer,
            self.events,
            self.config,
            self.register_write,
            self.register_write,
            self.register_read,
            self.index,
            self.begin,
        )

    def run(self) -> None:
        try:
            self.begin()
            for _ in range(STEPS):
                if self.tape.left <= 0:
                    break
                self._steps[self.tape.byte() & 31]()
                self.check()
            self.turn()
        finally:
            self.driver.close()
        assert not self.device.runtime.active

    def check(self) -> None:
        status = self.driver.status
        assert not status & f.DRIVER_OK or status & 15 == 15, "DRIVER_OK without the steps before it"
        assert not self.device.runtime.active or status & f.DRIVER_OK
        assert self.device.runtime.active or status & (f.DRIVER_OK | f.DEVICE_NEEDS_RESET) != f.DRIVER_OK
        for queue in self.device.runtime.queues:
            assert queue.in_flight <= queue.max_size
            self.oracle.check(queue)
        assert time.process_time() < self._end, "it takes too long"

    # The steps

    def begin(self) -> None:
        """Reset, negotiate, lay the rings out, start: right but for what one byte asks for."""
        driver, how = self.driver, self.tape.byte()
        driver.reset()
        driver.write(mmio.STATUS, 4, f.ACKNOWLEDGE)
        driver.write(mmio.STATUS, 4, f.ACKNOWLEDGE | f.DRIVER)
        features = driver.offered()
        if how & 1:
            features &= ~f.F_EVENT_IDX
        if how & 2:
            features &= ~f.F_INDIRECT_DESC
        if how & 12 == 12:
            features &= self.tape.word() | self.tape.word() << 16 | f.F_VERSION_1
        driver.negotiate(features)
        self.size = SIZES[how >> 4 & 3]
        self.avail = [0] * len(self.device.runtime.queues)
        for index in range(len(self.device.runtime.queues)):
            if how >= 0xE0 and index == self.tape.byte() % len(self.device.runtime.queues):
                continue
            at = self.rings(index)
            self.memory.write(at, bytes(PAGE))
            driver.write(mmio.QUEUE_SEL, 4, index)
            driver.write(mmio.QUEUE_SIZE, 4, self.size)
            for low, address in (
                (mmio.QUEUE_DESC_LOW, at),
                (mmio.QUEUE_DRIVER_LOW, at + 0x400),
                (mmio.QUEUE_DEVICE_LOW, at + 0x600),
            ):
                driver.write(low, 4, address)
                driver.write(low + 4, 4, 0)
            driver.write(mmio.QUEUE_READY, 4, 1)
        if how < 0xF8:
            driver.driver_ok()
        self.turn()

    def request(self) -> None:
        """A chain as drivers make them: readable parts with data of the tape, then writable ones."""
        tape, index, shape = self.tape, self.queue(), self.tape.byte()
        parts = []
        at = BUFFERS + (tape.byte() << 6)
        for _ in range(shape & 3):
            data = tape.take(tape.byte() & 127)
            self.memory.write(at, data or b"\0")
            parts.append((at, len(data), 0))
            at += len(data)
        for _ in range(shape >> 2 & 3):
            size = ODD_SIZES[tape.byte() & 15] if shape & 64 else tape.byte()
            parts.append((at, size, 2))
            at += size & 0xFFF
        self.chain(index, parts, tape.byte() % self.size)
        if shape & 128:
            self.notify(index)

    def indirect(self) -> None:
        """A table of 1 to 4 descriptors, and one that points at it."""
        tape, index = self.tape, self.queue()
        count, table = 1 + (tape.byte() & 3), BUFFERS + (tape.byte() << 8)
        for i in range(count):
            address, size, flags, following = self.fields()
            self.put(table + 16 * i, address, size, flags if tape.byte() & 1 else flags & 3, following)
        length = tape.word() if tape.byte() & 1 else 16 * count
        self.put(self.rings(index), table, length, 4 | tape.byte() & 3, 0)
        self.give(index, 0)
        self.notify(index)

    def long_table(self) -> None:
        """A table of a header, many buffers and a status, as disks get them; one descriptor may be any."""
        tape, index, how = self.tape, self.queue(), self.tape.byte()
        count, way = 7 + (how & 31), how >> 5 & 1
        table, at, size = BUFFERS + (tape.byte() << 7), BUFFERS + (tape.byte() << 7), tape.byte() << 6
        self.memory.write(at, tape.take(16).ljust(16, b"\0"))
        self.put(table, at, 16, 1, 1)
        for i in range(1, count + 1):
            self.put(table + 16 * i, at + 64 * i, size, 1 | way << 1, i + 1)
        last = table + 16 * (count + 1)
        self.put(last, at + 32, 1, 2, 0)
        if how & 64:
            self.put(min(last, table + (tape.byte() << 4)), *self.fields())
        self.put(self.rings(index), table, 16 * (count + 2), 4, 0)
        self.give(index, 0)
        self.notify(index)

    def descriptor(self) -> None:
        """Any descriptor."""
        index = self.queue()
        self.put(self.rings(index) + 16 * (self.tape.byte() % 64), *self.fields())

    def offer(self) -> None:
        """Any head, several times."""
        index, head = self.queue(), self.tape.byte()
        for _ in range(1 + (self.tape.byte() & 15)):
            self.give(index, head)

    def again(self) -> None:
        """The last chain once more, as often as the queue has entries, and a kick."""
        index = self.queue()
        last = (self.avail[index] - 1) % self.size
        head = self.memory.read_u16(self.rings(index) + 0x404 + 2 * last)
        for _ in range(1 + self.tape.byte() % self.size):
            self.give(index, head)
        self.notify(index)
        self.turn()

    def index(self) -> None:
        """Any index of the available ring."""
        index = self.queue()
        far = not self.tape.byte() & 7
        self.avail[index] = self.tape.word() if far else self.avail[index] + (self.tape.byte() & 15)
        self.memory.write_u16(self.rings(index) + 0x402, self.avail[index] & 0xFFFF)

    def kick(self) -> None:
        self.notify(self.queue())
        self.turn()

    def data(self) -> None:
        """Bytes anywhere in RAM, rings included."""
        at = LOW + (self.tape.word() << 1)
        data = self.tape.take(1 + (self.tape.byte() & 31))
        if data:
            self.memory.write(min(at, HIGH_END - len(data)), data)

    def register_write(self) -> None:
        tape = self.tape
        offset = (tape.byte() << 2) + (tape.byte() & 3 if tape.byte() & 8 else 0)
        value = tape.byte() if tape.byte() & 1 else tape.word() | tape.word() << 16
        width = WIDTHS[tape.byte() % 6]
        self.driver.write(offset, width, value & (1 << 8 * width) - 1)

    def register_read(self) -> None:
        tape = self.tape
        width = WIDTHS[tape.byte() % 6]
        value = self.driver.read(tape.word() % (mmio.SIZE - 8), width)
        assert 0 <= value < 1 << 8 * width

    def config(self) -> None:
        tape = self.tape
        offset, width = mmio.CONFIG + tape.byte(), WIDTHS[tape.byte() % 6]
        if tape.byte() & 1:
            self.driver.write(offset, width, int.from_bytes(tape.take(width), "little"))
        else:
            self.driver.read(offset, width)

    def host(self) -> None:
        """Input from the backend."""
        data = self.tape.take(self.tape.byte())
        if self.feed is not None:
            self.feed(self.device, data)
        self.turn()

    def events(self) -> None:
        """Notification flags and event indexes; then acknowledge interrupts."""
        at = self.rings(self.queue())
        self.memory.write_u16(at + 0x400, self.tape.byte() & 1)
        self.memory.write_u16(at + 0x404 + 2 * self.size, self.tape.word())
        self.driver.acknowledge()

    # Their parts

    def queue(self) -> int:
        return self.tape.byte() % max(1, len(self.device.runtime.queues))

    def rings(self, index: int) -> int:
        return RINGS + PAGE * (index % 16) if index < 16 else RINGS

    def fields(self) -> tuple[int, int, int, int]:
        tape, how = self.tape, self.tape.byte()
        address = ODD_ADDRESSES[tape.byte() & 15] if how & 1 else BUFFERS + (tape.byte() << 6)
        size = ODD_SIZES[tape.byte() & 15] if how & 2 else tape.byte()
        return address, size, how >> 2 & 15, tape.byte() & 31 if how & 64 else how >> 6

    def put(self, at: int, address: int, size: int, flags: int, following: int) -> None:
        self.memory.write_u64(at, address)
        self.memory.write_u64(at + 8, size | flags << 32 | following << 48)

    def chain(self, index: int, parts: list[tuple[int, int, int]], head: int) -> None:
        ring = self.rings(index)
        for i, (address, size, flags) in enumerate(parts):
            more = i < len(parts) - 1
            self.put(
                ring + 16 * ((head + i) % self.size), address, size, flags | more, (head + i + 1) % self.size
            )
        self.give(index, head)

    def give(self, index: int, head: int) -> None:
        ring = self.rings(index)
        self.memory.write_u16(ring + 0x404 + 2 * (self.avail[index] % self.size), head)
        self.avail[index] = (self.avail[index] + 1) & 0xFFFF
        self.memory.write_u16(ring + 0x402, self.avail[index])

    def notify(self, index: int) -> None:
        self.driver.write(mmio.QUEUE_NOTIFY, 4, index)

    def turn(self) -> None:
        """Run the loop until nothing is pending."""
        loop = self.driver.loop
        for _ in range(TURNS):
            if not loop.run_once(0):
                return
        raise AssertionError("the loop never has nothing to do")


@contextmanager
def silence() -> Iterator[None]:
    """No reports about the guest's mistakes."""
    told, rate_limit.BURST = rate_limit.BURST, 0
    notice.limit.sites.clear()
    try:
        yield
    finally:
        rate_limit.BURST = told
        notice.limit.sites.clear()
