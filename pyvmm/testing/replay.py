"""A recording played to a device by the fake driver, and what came back compared."""

from __future__ import annotations

import struct

from pyvmm.errors import ConfigError
from pyvmm.testing.driver import DriverRequest, FakeDriver
from pyvmm.virtio import features as f
from pyvmm.virtio.ring.descriptor import WRITE
from pyvmm.virtio.tools import record
from pyvmm.virtio.tools.record import Recording, RecordingEntry, RecordingError
from pyvmm.virtio.transport import mmio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.virtio.device import VirtioDevice

#: Seconds a device gets for an answer that the recording has.
PATIENCE = 5.0
#: Differences that are kept; the others are counted.
KEPT = 100


class Difference:
    """Something that was otherwise than recorded: entry *number*, at *seconds* of the recording."""

    __slots__ = ("number", "seconds", "text")

    def __init__(self, entry: RecordingEntry, text: str) -> None:
        self.number = entry.number
        self.seconds = entry.seconds
        self.text = text

    def __str__(self) -> str:
        return f"entry {self.number} at {self.seconds:.6f} s: {self.text}"


class Replay:
    """Plays *recording* to *device*, which it closes.

    Requests are made in the order in which the recorded device took them, an answer is waited for where it
    was recorded; times are not kept. Raises ConfigError for a device of another kind.

    :param patience: seconds an answer may take
    """

    def __init__(self, recording: Recording, device: VirtioDevice, patience: float = PATIENCE) -> None:
        if device.device_id != recording.device_id:
            raise ConfigError(
                f"{recording.path} was recorded from a device with id {recording.device_id}, and "
                f"{device.name} has {device.device_id}; give a device of the same kind"
            )
        self.recording = recording
        self.differences: list[Difference] = []
        #: How many differences there were in all, and what was played.
        self.count = self.requests = self.results = self.accesses = 0
        #: True when the recording ended because it was full.
        self.full = False
        self._device = device
        self._patience = patience
        # By the queue and the recorded head: the request, and the (address, size) of its buffers.
        self._pending: dict[tuple[int, int], tuple[DriverRequest, list[tuple[int, int]]]] = {}
        # Queues that owe an answer: further ones are not waited for as long.
        self._silent: set[int] = set()

    def run(self) -> bool:
        """Play the whole recording; True when the device did what was recorded.

        Raises RecordingError for an entry that is damaged.
        """
        with FakeDriver(self._device, start=False) as driver:
            self._driver = driver
            for entry in self.recording:
                try:
                    self._play(entry)
                except (struct.error, IndexError, OverflowError, MemoryError):
                    raise RecordingError(
                        f"{self.recording.path}: entry {entry.number} is damaged; record it anew"
                    ) from None
        return not self.count

    def _play(self, entry: RecordingEntry) -> None:
        if entry.kind == record.START:
            self._start(entry)
        elif entry.kind == record.STOP:
            self._driver.reset()
            self._pending.clear()
            self._silent.clear()
        elif entry.kind == record.REQUEST:
            self._request(entry)
        elif entry.kind == record.RESULT:
            self._result(entry)
        elif entry.kind in (record.CONFIG_READ, record.CONFIG_WRITE):
            self._access(entry)
        elif entry.kind == record.FULL:
            self.full = True

    def _start(self, entry: RecordingEntry) -> None:
        features, sizes = entry.start()
        driver = self._driver
        if len(sizes) != len(self._device.queue_sizes):
            self._differs(
                entry, f"{len(sizes)} queues were recorded, the device has {len(self._device.queue_sizes)}"
            )
        driver.reset()
        driver.write(mmio.STATUS, 4, f.ACKNOWLEDGE)
        driver.write(mmio.STATUS, 4, f.ACKNOWLEDGE | f.DRIVER)
        lacking = features & ~driver.offered()
        if lacking:
            self._differs(entry, f"the device does not offer what was accepted: {f.describe(lacking)}")
        driver.negotiate(features & ~lacking)
        for index, size in enumerate(sizes[: len(self._device.queue_sizes)]):
            if not size:
                continue
            driver.write(mmio.QUEUE_SEL, 4, index)
            most = driver.read(mmio.QUEUE_SIZE_MAX)
            driver.set_up_queue(index, min(size, most))
        driver.driver_ok()
        driver.run()

    def _request(self, entry: RecordingEntry) -> None:
        readable, writable = entry.request()
        driver = self._driver
        queue = next((queue for queue in driver.queues if queue.index == entry.queue), None)
        if queue is None:
            self._differs(entry, f"a request on queue {entry.queue}, which this device has not")
            return
        parts, buffers = [], []
        for data in readable:
            parts.append((self._place(len(data)), len(data), 0))
            driver.memory.write(parts[-1][0], data)
        for size in writable:
            buffers.append((self._place(size), size))
            parts.append((buffers[-1][0], size, WRITE))
        parts = parts or [(self._place(1), 0, 0)]
        indirect = queue.free < len(parts)
        if not queue.free or (indirect and not driver.features & f.F_INDIRECT_DESC):
            self._differs(entry, "the request does not fit into the queue any more: answers are missing")
            return
        self.requests += 1
        request = queue.add_buffers(parts, buffers, indirect=indirect)
        self._pending[entry.queue, entry.head] = request, [part[:2] for part in parts]
        queue.kick()
        driver.run()

    def _result(self, entry: RecordingEntry) -> None:
        if (entry.queue, entry.head) not in self._pending:
            return  # a broken chain, which was never a request
        request, _ = self._pending.pop((entry.queue, entry.head))
        driver = self._driver
        queue = next(queue for queue in driver.queues if queue.index == entry.queue)
        written, data = entry.result()
        self.results += 1

        def done() -> bool:
            queue.collect()
            return request.done

        try:
            driver.run(done, 0.0 if entry.queue in self._silent else self._patience)
        except TimeoutError:
            self._silent.add(entry.queue)
            self._differs(entry, f"queue {entry.queue}: no answer within {self._patience:g} seconds")
            return
        got = queue.data(request)
        if request.written != written:
            self._differs(entry, f"queue {entry.queue}: {request.written} bytes instead of {written}")
        elif got != data:
            at = next((i for i, (a, b) in enumerate(zip(got, data, strict=False)) if a != b), None)
            if at is None:
                self._differs(
                    entry, f"queue {entry.queue}: {len(got)} bytes of an answer instead of {len(data)}"
                )
                return
            self._differs(
                entry,
                f"queue {entry.queue}: byte {at} of {len(data)} is {got[at]:#04x} instead of {data[at]:#04x}",
            )

    def _access(self, entry: RecordingEntry) -> None:
        offset, size, value = entry.config()
        if size not in (1, 2, 4, 8) or offset + size > mmio.SIZE - mmio.CONFIG:
            raise struct.error("no access that a driver can make")
        self.accesses += 1
        if entry.kind == record.CONFIG_WRITE:
            self._driver.write(mmio.CONFIG + offset, size, value)
            return
        got = self._driver.config(offset, size)
        if got != value:
            self._differs(entry, f"configuration space at {offset:#x}: {got:#x} instead of {value:#x}")

    def _place(self, size: int) -> int:
        """Guest memory for a buffer that no request under way has."""
        driver = self._driver
        used = [area for _, areas in self._pending.values() for area in areas]
        for _ in range(2 + 2 * len(used)):
            address = driver.allocate(max(1, size))
            inside = [length for at, length in used if address < at + length and at < address + size]
            if not inside:
                return address
            driver.allocate(max(inside))
        raise MemoryError("the requests under way do not fit into the fake driver's memory")

    def _differs(self, entry: RecordingEntry, text: str) -> None:
        self.count += 1
        if len(self.differences) < KEPT:
            self.differences.append(Difference(entry, text))
