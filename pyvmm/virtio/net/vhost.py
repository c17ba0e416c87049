"""The network device with its frames moved by the host's kernel, between the rings and a tap. Section 5.1.

The control queue is served here: addresses, queue pairs and offloads are changed on the tap.
"""

from __future__ import annotations

from pyvmm.virtio import features as f
from pyvmm.virtio.net.device import Net
from pyvmm.virtio.net.features import F_MQ, F_MRG_RXBUF
from pyvmm.virtio.vhost.device import PASSED, Ring, VhostControl, VhostDevice
from pyvmm.virtio.vhost.kernel import KernelVhost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.net.tap import NetTap
    from pyvmm.memory.guest import GuestMemory

DEVICE = "/dev/vhost-net"
MODULE = "vhost_net"


class _Pair(KernelVhost):
    """One queue pair: the kernel's rings 0 and 1."""

    def ring_index(self, index: int) -> int:
        return index & 1

    def halt(self, index: int) -> None:
        self.set_backend(index, -1)


class _Pairs(VhostControl):
    """The queue pairs of one device, each before a queue of *tap*."""

    def __init__(self, tap: NetTap, pairs: int) -> None:
        self._tap = tap
        self._pairs: list[_Pair] = []
        try:
            for _ in range(pairs):
                self._pairs.append(_Pair(DEVICE, MODULE))
        except BaseException:
            self.close()
            raise
        self.features = self._pairs[0].features

    def begin(self, memory: GuestMemory, features: int) -> None:
        for pair in self._pairs:
            pair.begin(memory, features)

    def start_ring(self, ring: Ring) -> None:
        self._pairs[ring.index >> 1].start_ring(ring)

    def running(self, rings: list[Ring]) -> None:
        for ring in rings:
            pair = ring.index >> 1
            self._pairs[pair].set_backend(ring.index & 1, self._tap.fd(pair))

    def stop_ring(self, index: int) -> int:
        return self._pairs[index >> 1].stop_ring(index)

    def close(self) -> None:
        for pair in self._pairs:
            pair.close()


class VhostNet(VhostDevice, Net):
    """A network device on *tap*, which it closes; *mac*, *mtu*, *pairs* and *seed* are Net's.

    Received frames are not filtered by address: everything that reaches the tap reaches the guest.
    Raises DeviceError when the host has no vhost-net.
    """

    def __init__(
        self, tap: NetTap, *, mac: bytes | None = None, mtu: int | None = None, pairs: int = 1, seed: str = ""
    ) -> None:
        control = _Pairs(tap, pairs)
        Net.__init__(self, tap, mac=mac, mtu=mtu, pairs=pairs, seed=seed)
        self.connect(control)

    @property
    def served(self) -> int:
        """The queues before the control queue."""
        return 2 * self._max_pairs if self.has(F_MQ) else 2

    @property
    def offered_features(self) -> int:
        """Offloads and commands are the tap's and ours; what concerns the rings is the kernel's."""
        kernel = self.control.features
        return self.features & (kernel | ~F_MRG_RXBUF) | kernel & PASSED | f.F_VERSION_1

    def started(self) -> None:
        """Begin as negotiated, and hand the queues over."""
        self._begin()
        self.backend.started(self._offloads)
        self.backend.enable(self._pairs)
        super().started()

    def stopped(self) -> None:
        """No frame touches guest memory any more."""
        VhostDevice.stopped(self)
        Net.stopped(self)

    def close(self) -> None:
        """Close the kernel's side and the tap."""
        VhostDevice.close(self)
        Net.close(self)
