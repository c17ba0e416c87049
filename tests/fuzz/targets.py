"""What is fuzzed: the queue by itself, the registers, and every device that users can name.

A new device is one line in DEVICES: how it is made with nothing of the host behind it.
"""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.virtio.balloon.device import Balloon
from pyvmm.virtio.block.device import Block
from pyvmm.virtio.console.device import VirtioConsole
from pyvmm.virtio.console.port import Port
from pyvmm.virtio.device import DEFERRED, Deferred, VirtioDevice
from pyvmm.virtio.features import F_RING_PACKED
from pyvmm.virtio.net.device import Net
from pyvmm.virtio.ring.chain import Chain
from pyvmm.virtio.rng.device import Rng
from tests.fuzz import backends as b
from tests.fuzz.machine import Feed, Ground, Program, silence
from tests.fuzz.oracle import Oracle


class Echo(VirtioDevice):
    """Copies the readable part of a chain to the writable part, to fuzz the queue itself."""

    device_id = 0x3F
    name = "echo"
    queue_sizes = (64, 8)
    indirect_vectors = True
    config_fields = {"a": "u8", "b": "u16", "c": "u64", "d": "bytes5"}
    config_writable = frozenset({"b", "d"})

    def handle(self, queue: int, chain: Chain) -> Deferred | None:
        limit = 1 << 16
        if queue == 0:
            chain.write(chain.read_rest(limit))
            return None
        self.runtime.soon(lambda: self._late(queue, chain))
        return DEFERRED

    def _late(self, queue: int, chain: Chain) -> None:
        chain.write(chain.read(4))
        self.complete(queue, chain)


class Stubborn(Echo):
    """Has no queues but registers, and does not start when it was given a feature it offers."""

    name = "stubborn"
    features = F_RING_PACKED

    def started(self) -> None:
        if self.has(F_RING_PACKED):
            raise OSError("it was asked for too much")


#: What the guest's programs drive: how to make it, and how the host feeds it.
DEVICES: dict[str, tuple[Callable[[], VirtioDevice], Feed | None]] = {
    "queue": (Echo, lambda device, data: device.config_changed()),
    "mmio": (Stubborn, None),
    "rng": (Rng, None),
    "disk": (lambda: Block(b.MemoryDisk(), serial="serial", queues=2), None),
    "net": (lambda: Net(b.MemoryCable(), mtu=1500, pairs=2), b.feed_net),
    "hvc": (lambda: VirtioConsole([Port(b.MemoryEnd()), Port(b.MemoryEnd(), "data", False)]), b.feed_console),
    "vsock": (b.make_vsock, b.feed_vsock),
    "balloon": (lambda: Balloon(8192, stats=1.0, reporting=True), None),
}

#: Kinds without a target of their own, and why.
NOT_FUZZED = {
    "device": "a user's own class",
    "share": "another process runs its queues",
    "vhost_user": "another process runs its queues",
}


class Target:
    """One of DEVICES, to be called with programs; *chains*: how many it completed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.make, self.feed = DEVICES[name]
        self.oracle = Oracle()
        self.programs = 0
        self._ground = Ground()

    def tally(self) -> str:
        """How many programs ran, and how many chains they completed."""
        return f"{self.name}: {self.programs} programs, {self.oracle.chains} chains\n"

    def __call__(self, data: bytes) -> None:
        """Run one program. Raises whatever is a defect."""
        self.programs += 1
        with silence(), self.oracle.watching():
            self._ground.clear()
            Program(self._ground, self.make(), self.feed, self.oracle, data).run()
            self._ground.check()
