"""Devices and memory for tests of the virtio core."""

from __future__ import annotations

import pytest

from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import Anonymous
from pyvmm.testing import FakeDriver
from pyvmm.virtio import ids
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.features import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1
from pyvmm.virtio.ring.chain import Chain
from pyvmm.virtio.ring.queue import Queue

PAGE = 4096
#: RAM of ``two_regions``: two host objects that touch at SEAM, nothing behind END, a ROM at ROM.
LOW, SEAM, END = 0x10_0000, 0x14_0000, 0x18_0000
ROM = 0x20_0000
PLAIN = F_VERSION_1
INDIRECT = F_VERSION_1 | F_INDIRECT_DESC
EVENTS = F_VERSION_1 | F_EVENT_IDX
ALL = INDIRECT | F_EVENT_IDX


class Copier(VirtioDevice):
    """Copies the readable part of a chain to the writable part; records every request."""

    device_id = ids.ENTROPY
    name = "copier"
    queue_sizes = (16,)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bytes, int]] = []

    def handle(self, queue: int, chain: Chain) -> None:
        data = chain.read_rest(1 << 20)
        self.seen.append((data, chain.writable_size))
        chain.write(data)


class Pair(Copier):
    """A Copier with two queues."""

    queue_sizes = (16, 8)


CONFIGURED = 0x1234_5678_9ABC_DEF0


class Configured(Pair):
    """Has a configuration space, of which the driver may write a part."""

    name = "configured"
    features = 1 << 3 | 1 << 40
    config_fields = {"capacity": "u64", "wanted": "u32"}
    config_writable = frozenset({"wanted"})

    def __init__(self) -> None:
        super().__init__()
        self.config.capacity = CONFIGURED
        self.told: list[tuple[int, int]] = []

    def config_written(self, offset: int, size: int) -> None:
        self.told.append((offset, size))


def two_regions() -> GuestMemory:
    return GuestMemory(
        [
            Region(LOW, SEAM - LOW, Anonymous(SEAM - LOW)),
            Region(SEAM, END - SEAM, Anonymous(END - SEAM)),
            Region(ROM, PAGE, Anonymous(PAGE), readonly=True, name="rom"),
        ]
    )


def started(device: VirtioDevice, features: int = ALL, **keys: object) -> FakeDriver:
    return FakeDriver(device, features=features, **keys)  # type: ignore[arg-type]


def chains(queue: Queue) -> list[Chain]:
    """All there are now."""
    found = []
    while (chain := queue.pop()) is not None:
        found.append(chain)
    return found


def count(capfd: pytest.CaptureFixture[str], text: str) -> int:
    """How many lines on stderr say *text*."""
    return sum(text in line for line in capfd.readouterr().err.splitlines())
