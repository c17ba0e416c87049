"""A device that tells the tools' effects apart, and what its driver does with it."""

from __future__ import annotations

from pyvmm.testing import FakeDriver
from pyvmm.virtio.device import DEFERRED, Deferred, VirtioDevice
from pyvmm.virtio.observer import Observer
from pyvmm.virtio.ring.chain import Chain


class Shout(VirtioDevice):
    """Answers a text with the same in capitals; its second queue keeps what it is given."""

    device_id = 99
    name = "shout"
    features = 1 << 0
    feature_names = {1 << 0: "LOUD"}
    queue_sizes = (8, 4)
    config_fields = {"count": "u32", "volume": "u8"}
    config_writable = frozenset(("volume",))

    def __init__(self, answer: bytes | None = None) -> None:
        super().__init__()
        self.answer = answer
        self.kept: list[Chain] = []

    def handle(self, queue: int, chain: Chain) -> Deferred | None:
        if queue == 1:
            self.kept.append(chain)
            return DEFERRED
        text = chain.read_rest(1 << 20)
        self.config.count += 1
        chain.write(text.upper() if self.answer is None else self.answer)
        return None

    def tell(self, text: bytes) -> None:
        chain = self.kept.pop(0)
        chain.write(text)
        self.complete(1, chain)

    def describe(self, queue: int, request: bytes) -> str:
        return f"shout {request.decode(errors='replace')}"


def observed(device: VirtioDevice, *observers: Observer) -> FakeDriver:
    """A driver that has not begun, of *device* with *observers*."""
    return FakeDriver(device, start=False, observers=observers)
