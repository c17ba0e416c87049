"""A sensor: a three-axis accelerometer that every stock Linux kernel reads as an input device.

    pyvmm run --device examples/accelerometer.py:Accelerometer,rate=10

It swings around its z axis. Linux drives it with virtio_input; programs read its samples from
/dev/input/eventN; see docs/guide/example-devices.md. Virtio 1.2, section 5.8; ``linux/virtio_input.h``,
``linux/input-event-codes.h``.
"""

from __future__ import annotations

import math
import struct
from collections import deque

from pyvmm import DEFERRED, Chain, Deferred, VirtioDevice

INPUT = 18
CFG_NAME, CFG_SERIAL, CFG_IDS, CFG_PROPERTIES, CFG_EVENTS, CFG_AXIS = 0x01, 0x02, 0x03, 0x10, 0x11, 0x12
EV_SYN, EV_ABS = 0x00, 0x03
AXES = ABS_X, ABS_Y, ABS_Z = 0, 1, 2
PROP_ACCELEROMETER = 6
BUS_VIRTUAL = 6

EVENT = struct.Struct("<HHi")  # type, code, value
EVENTS, STATUS = 0, 1
#: Units of the axes: a thousandth of the earth's acceleration, +-2 g; ``resolution`` is units per g.
RANGE, RESOLUTION = 2000, 1000


class Accelerometer(VirtioDevice):
    """The sensor.

    :param rate: samples a second
    :param period: seconds of one swing
    """

    device_id = INPUT
    name = "accelerometer"
    queue_sizes = (64, 64)
    config_fields = {"select": "u8", "subsel": "u8", "size": "u8", "reserved": "bytes5", "data": "bytes128"}
    config_writable = frozenset(("select", "subsel"))

    def __init__(self, rate: float = 10.0, period: float = 8.0) -> None:
        super().__init__()
        if not 0 < rate <= 1000 or period <= 0:
            raise ValueError("rate is 0 to 1000 samples a second, period a number of seconds")
        self.rate = rate
        self.period = period
        #: Samples for which the driver had no buffers.
        self.lost = 0
        self._count = 0
        self._buffers: deque[Chain] = deque()

    # What it is: the driver selects a page of the configuration space, then reads it

    def config_written(self, offset: int, size: int) -> None:
        """The driver has selected another page."""
        page = self._page(self.config.select, self.config.subsel)
        self.config.size, self.config.data = len(page), page

    def _page(self, select: int, subsel: int) -> bytes:
        if select == CFG_NAME:
            return b"pyvmm accelerometer"
        if select == CFG_IDS:
            return struct.pack("<4H", BUS_VIRTUAL, 0, 0, 1)
        if select == CFG_PROPERTIES:
            return bytes([1 << PROP_ACCELEROMETER])
        if select == CFG_EVENTS and subsel == EV_ABS:
            return bytes([sum(1 << axis for axis in AXES)])
        if select == CFG_AXIS and subsel in AXES:
            return struct.pack("<iiiii", -RANGE, RANGE, 0, 0, RESOLUTION)
        return b""

    # What it measures

    def started(self) -> None:
        """The driver has set DRIVER_OK."""
        self.runtime.later(1 / self.rate, self._sample)

    def sample(self) -> tuple[int, int, int]:
        """The next three values: gravity, seen from a swinging board."""
        angle = math.sin(2 * math.pi * self._count / self.rate / self.period) * math.pi / 3
        self._count += 1
        return round(math.sin(angle) * RESOLUTION), 0, round(math.cos(angle) * RESOLUTION)

    def _sample(self) -> None:
        self.runtime.later(1 / self.rate, self._sample)
        events = [(EV_ABS, axis, value) for axis, value in zip(AXES, self.sample(), strict=True)]
        events.append((EV_SYN, 0, 0))
        if len(self._buffers) < len(events):
            self.lost += 1
            return
        queue = self.runtime.queues[EVENTS]
        for event in events:
            chain = self._buffers.popleft()
            queue.push(chain, chain.write(EVENT.pack(*event)))
        self.runtime.publish(queue)

    def handle(self, queue: int, chain: Chain) -> Deferred | None:
        """Keep a buffer for a later event; what the driver sends on the other queue (LEDs) has no effect."""
        if queue == STATUS:
            return None
        self._buffers.append(chain)
        return DEFERRED

    def stopped(self) -> None:
        """The driver has reset the device: the kept buffers are invalid now."""
        self._buffers.clear()
