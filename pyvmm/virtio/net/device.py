"""The network device. Section 5.1."""

from __future__ import annotations

from functools import partial
from hashlib import sha256

from pyvmm.backends.net.base import HEADER, MAX_FRAME, MIN_FRAME, FrameSink
from pyvmm.host.notice import notice
from pyvmm.loop import ERROR, HANGUP, READ, WRITE
from pyvmm.virtio import ids
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.errors import ChainError
from pyvmm.virtio.net.control import LIMIT, Control
from pyvmm.virtio.net.features import (
    F_CTRL_GUEST_OFFLOADS,
    F_CTRL_MAC_ADDR,
    F_CTRL_RX,
    F_CTRL_VQ,
    F_MAC,
    F_MQ,
    F_MRG_RXBUF,
    F_MTU,
    F_STATUS,
    GUEST_BITS,
    HOST_BITS,
    NAMES,
)
from pyvmm.virtio.net.filter import Filter
from pyvmm.virtio.net.receive import MORE, STARVED, Receiver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pyvmm.backends.net.base import NetBackend
    from pyvmm.backends.net.pcap import Capture
    from pyvmm.errors import PyvmmError
    from pyvmm.loop import Loop
    from pyvmm.virtio.ring.chain import Chain
    from pyvmm.virtio.ring.queue import Queue

#: Of the status field (5.1.4).
S_LINK_UP = 1
QUEUE_SIZE = 256
CONTROL_SIZE = 64
#: Frames sent before the driver and the other end learn of it.
PUBLISH_EACH = 32
#: Bytes of a frame that may be an answer.
SHORT = 512
#: Kicks in a row that change who serves them.
CONVERSATION = 32


class Net(VirtioDevice):
    """A network device in front of *backend*, which it closes.

    :param mac: the driver's address, 6 bytes; by default one that belongs to *seed*
    :param mtu: the largest packet the driver shall send, 68 to 65535; by default the backend's, else not told
    :param pairs: queue pairs, as many as the backend has at most
    :param capture: gets every frame
    :param seed: what a made-up address is derived from: the same text, the same address
    """

    device_id = ids.NET
    name = "net"
    feature_names = NAMES
    config_fields = {"mac": "bytes6", "status": "u16", "max_virtqueue_pairs": "u16", "mtu": "u16"}

    def __init__(
        self,
        backend: NetBackend,
        *,
        mac: bytes | None = None,
        mtu: int | None = None,
        pairs: int = 1,
        capture: Capture | None = None,
        seed: str = "",
    ) -> None:
        self.queue_sizes = (*[QUEUE_SIZE] * (2 * pairs), CONTROL_SIZE)
        super().__init__()
        self.backend = backend
        self._capture = capture
        self._mac, self._seed = mac, seed
        self._max_pairs = pairs
        mtu = mtu or backend.mtu
        self.features = F_MAC | F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_CTRL_RX | F_CTRL_MAC_ADDR
        for offload, guest in GUEST_BITS.items():
            if backend.offloads & offload:
                self.features |= guest | HOST_BITS[offload] | F_CTRL_GUEST_OFFLOADS
        if pairs > 1:
            self.features |= F_MQ
        if mtu:
            self.features |= F_MTU
            self.config.mtu = mtu
        self.config.max_virtqueue_pairs = pairs
        #: False takes the link down, whatever the backend says.
        self._plugged = True
        #: Frames of the driver's that were lost or broke a rule.
        self.dropped = 0
        self._filter = Filter(bytes(6))
        self._pairs = 1
        self._offloads = 0
        self._receivers: list[Receiver] = []
        self._reads = [backend.reader(pair) for pair in range(pairs)]
        self._writes = [backend.writer(pair) for pair in range(pairs)]
        self._sending: dict[int, Chain] = {}  # by queue: the chain that found no room
        self._sent = 0  # bytes of the last frame
        # By pair: whether vCPUs send themselves, and how many kicks in a row were better done the other way.
        self._prompted = [False] * pairs
        self._misjudged = [0] * pairs
        self._watching: dict[int, int] = {}  # by pair: the descriptor
        self._reconnecting = False  # the next turn looks at the backend anew
        self._loaded: dict[str, Any] | None = None
        backend.on_change = self._backend_changed

    def attach(self, loop: Loop) -> None:
        """Open the backend. Raises NetBackendError."""
        super().attach(loop)
        self.backend.attach(loop)
        if self._capture is not None:
            self._capture.start()
        self.config.mac = self._mac or derived_mac(f"{self._seed} {self.name} {self.backend.identity}")
        self._show_link()

    @property
    def mac(self) -> bytes:
        """The driver's address as it was told."""
        return bytes(self.config.mac)

    @property
    def link_up(self) -> bool:
        """Whether frames go through."""
        return self._plugged and self.backend.carrier

    def set_link(self, up: bool) -> None:
        """Plug the cable in, or pull it out. Any thread."""
        self._plugged = up
        self.backend.set_carrier(up)
        self._show_link()

    @property
    def received_dropped(self) -> int:
        """Frames for the driver that were lost since it started."""
        return sum(receiver.dropped for receiver in self._receivers)

    # The driver starts and stops

    def started(self) -> None:
        """Begin as negotiated."""
        state = self._begin()
        pairs = self._max_pairs if self.has(F_MQ) else 1
        self._receivers = [self._receiver(self.queues[2 * pair]) for pair in range(pairs)]
        if state is not None:
            for receiver, heads in zip(self._receivers, state["receiving"], strict=True):
                receiver.load(heads)
            for index, head in state["sending"]:
                self._sending[index] = self.queues[index].walk(head)
        self.backend.started(self._offloads)
        self.backend.enable(self._pairs)
        self.backend.sink = _Sink(self)
        self._watch()

    def _begin(self) -> dict[str, Any] | None:
        """One pair, everything received, until the driver says more; or as a saved state has it."""
        state, self._loaded = self._loaded, None
        self._filter = Filter(self.mac)
        self._offloads = self.offered_to_guest()
        self._pairs = 1
        if state is not None:
            self._filter.load(state["filter"])
            self._offloads, self._pairs = state["offloads"], state["pairs"]
            self._show_link()  # as it is now, whatever the state says
        self._control = Control(self._filter, self._set_mac, self._set_pairs, self._set_offloads)
        self._control_index = 2 * self._max_pairs if self.has(F_MQ) else 2
        return state

    def _receiver(self, queue: Queue) -> Receiver:
        return Receiver(
            queue,
            offloads=self._offloads,
            mergeable=self.has(F_MRG_RXBUF),
            foreign=self.backend.foreign,
            wanted=self._filter,
            capture=self._capture,
            used=lambda: self._signal.used(queue.index),
            again=lambda: self._signal.kick(queue.index),
            broken=lambda error: self.soon(lambda: self._raise(error)),
        )

    def stopped(self) -> None:
        """No frame touches guest memory any more."""
        self.backend.sink = None
        for receiver in self._receivers:
            receiver.close()
        self._receivers = []
        self._sending.clear()
        self._watching.clear()
        self._reconnecting = False
        self.backend.stopped()

    def broken(self, error: PyvmmError) -> None:
        """Neither from outside."""
        self.backend.sink = None
        for receiver in self._receivers:
            receiver.close()
        super().broken(error)

    def close(self) -> None:
        """Close backend and capture."""
        self.backend.close()
        if self._capture is not None:
            self._capture.close()

    # Queues

    def kicked(self, queue: Queue) -> None:
        """Send, receive again, or carry out commands."""
        index = queue.index
        if index == self._control_index:
            super().kicked(queue)
        elif index & 1:
            if self.backend.prompt:
                self._weigh(index >> 1)
            self._send(index >> 1, queue)
        elif index >> 1 < len(self._receivers):
            receiver = self._receivers[index >> 1]
            receiver.resume()
            if not receiver.starved and self._watching.get(index >> 1, -1) >= 0:
                self._rewatch(index >> 1)
                self._receive(index >> 1)

    def run_promptly(self, index: int) -> bool:
        """As any device's, for an answer."""
        return self._answers(index >> 1) and super().run_promptly(index)

    def _answers(self, pair: int) -> bool:
        """Whether what is sent now seems to be an answer: short, after a short frame that came alone.

        Anything else costs less in a batch, and a batch lets TCP make long segments.
        """
        receivers = self._receivers  # a reset puts others in their place
        return self._sent <= SHORT and pair < len(receivers) and receivers[pair].asked()

    def _weigh(self, pair: int) -> None:
        """Let vCPUs send themselves as long as most of it is answers."""
        on = self._prompted[pair]
        misjudged = self.loop.inside if on else self._answers(pair)
        self._misjudged[pair] = self._misjudged[pair] + 1 if misjudged else 0
        if self._misjudged[pair] == CONVERSATION:
            self._misjudged[pair] = 0
            self._prompted[pair] = self.prompt(2 * pair + 1, not on)

    def handle(self, queue: int, chain: Chain) -> int:
        """One command of the control queue."""
        if not chain.writable:
            raise ChainError("a command without room for its status (5.1.6.5)")
        return chain.write(self._control.carry_out(chain.read_rest(LIMIT)))

    def _send(self, pair: int, queue: Queue) -> None:
        backend, capture, up = self.backend, self._capture, self.link_up
        give_back, left = queue.give_back, queue.size
        outlet = pair % backend.pairs
        write = self._writes[outlet]
        queue.disarm()
        chain = self._sending.pop(queue.index, None)
        while True:
            if chain is None and (not left or (chain := queue.pop()) is None):
                if not left:
                    self._signal.kick(queue.index)
                    break
                if not queue.arm():
                    break
                queue.disarm()
                continue
            left -= 1
            views = chain.readable
            size = self._sent = sum(map(len, views)) - HEADER
            if chain.writable or not MIN_FRAME <= size <= MAX_FRAME:
                self._refuse_frame(chain, size)
            elif up:
                try:
                    write(views)
                except BlockingIOError:
                    self._sending[queue.index] = chain  # comes again when the backend is writable
                    self._rewatch(outlet)
                    break
                except OSError as error:
                    self.dropped += 1
                    notice(
                        "net send",
                        f"{self.name}: {backend.describe()} did not take a frame: {error.strerror}",
                    )
                else:
                    if capture is not None:
                        capture.frame(b"".join(views)[HEADER:])
            give_back(chain.head, 0)
            chain = None
            if not left % PUBLISH_EACH:
                backend.flush()
                self.publish(queue)
        backend.flush()
        if backend.blocked:
            self._rewatch(outlet)
        self.publish(queue)

    def _refuse_frame(self, chain: Chain, size: int) -> None:
        self.dropped += 1
        if chain.writable:
            why = "with a writable buffer (5.1.6.2.1)"
        elif size < 0:
            why = f"of {size + HEADER} bytes: its header alone has {HEADER} (5.1.6)"
        else:
            why = f"of {size} bytes; a frame has {MIN_FRAME} to {MAX_FRAME}"
        self.refuse(ChainError(f"a frame to send {why}"))

    def _receive(self, pair: int, drop: bool = False) -> None:
        """Read frames for *pair*, into the driver's buffers unless they are to be dropped."""
        fd = self._watching.get(pair, -1)
        if fd < 0:
            return
        backend, receiver = self.backend, self._receivers[pair]
        read = self._reads[pair]
        try:
            if drop or not self.link_up:
                receiver.discard(read)
                return
            found = receiver.pull(read)
        except OSError as error:
            notice("net lost", f"{self.name}: {self.backend.describe()} is gone: {error.strerror}")
            self.backend.carrier = False
            self._backend_changed()
            return
        if found == STARVED:
            self._rewatch(pair)
        elif found == MORE and backend.pending:
            self.soon(lambda: self._receive(pair))

    # Descriptors

    def _watch(self) -> None:
        """Read what the backend has for each pair in use, and nothing else."""
        for pair in range(min(len(self._receivers), self.backend.pairs)):
            fd = self.backend.fd(pair) if pair < self._pairs and self.backend.carrier else -1
            old = self._watching.get(pair, -1)
            if old != fd:
                if old >= 0:
                    self.unwatch(old)
                self._watching[pair] = fd
                if fd >= 0:
                    self.watch(fd, READ, partial(self._ready, pair))

    def _ready(self, pair: int, events: int) -> None:
        if events & WRITE:
            self.backend.flush()
            waiting = [index for index in self._sending if (index >> 1) % self.backend.pairs == pair]
            for index in waiting:
                self._send(index >> 1, self.queues[index])
            self._rewatch(pair)
        if events & ~WRITE:
            # An end of the backend's would be told of for ever: it is read also without buffers.
            self._receive(pair, bool(events & (HANGUP | ERROR)) and self._receivers[pair].starved)

    def _rewatch(self, pair: int) -> None:
        """Wait for input unless the driver has no buffers, for room when a frame waits for it."""
        fd = self._watching.get(pair, -1)
        if fd >= 0:
            waits = any((index >> 1) % self.backend.pairs == pair for index in self._sending)
            self.rewatch(
                fd,
                (0 if self._receivers[pair].starved else READ)
                | (WRITE if waits or self.backend.blocked else 0),
            )

    # What commands change

    def offered_to_guest(self) -> int:
        """The offloads the driver accepted for what it receives."""
        return sum(offload for offload, bit in GUEST_BITS.items() if self.has(bit))

    def _set_mac(self, mac: bytes) -> None:
        self._filter.set_mac(mac)
        self.config.mac = mac

    def _set_pairs(self, pairs: int) -> bool:
        if not self.has(F_MQ) or not 1 <= pairs <= self._max_pairs:
            return False
        try:
            self.backend.enable(pairs)
        except OSError:
            return False
        self._pairs = pairs
        self._watch()
        return True

    def _set_offloads(self, bits: int) -> bool:
        if (
            not self.has(F_CTRL_GUEST_OFFLOADS)
            or bits & ~self.driver_features
            or bits & ~sum(GUEST_BITS.values())
        ):
            return False
        self._offloads = sum(offload for offload, bit in GUEST_BITS.items() if bits & bit)
        try:
            self.backend.started(self._offloads)
        except OSError:
            return False
        for receiver in self._receivers:
            receiver.offloads = self._offloads
        return True

    # The link

    def _backend_changed(self) -> None:
        """The backend's other end came or went."""
        self._show_link()
        if self.active:
            for pair, fd in list(self._watching.items()):
                if fd >= 0 and (fd != self.backend.fd(pair) or not self.backend.carrier):
                    self.unwatch(fd)
                    self._watching[pair] = -1
            if not self._reconnecting:
                self._reconnecting = True
                self.soon(self._reconnected)

    def _reconnected(self) -> None:
        self._reconnecting = False
        self._watch()
        for index in list(self._sending):
            self._send(index >> 1, self.queues[index])

    def _show_link(self) -> None:
        status = S_LINK_UP if self.link_up else 0
        if self.config.status != status:
            self.config.status = status
            self.config_changed()

    @staticmethod
    def _raise(error: PyvmmError) -> None:
        raise error

    # State

    def hold(self) -> None:
        """As any device; frames that other guests push wait."""
        for receiver in self._receivers:
            receiver.hold()
        super().hold()

    def release(self) -> None:
        """As any device; the receive queues are run for what waited."""
        super().release()
        for pair, receiver in enumerate(self._receivers):
            receiver.held = False
            self.kick(2 * pair)

    def save(self) -> dict[str, Any]:
        """Queues, filter, and the chains taken and not used yet."""
        return super().save() | {
            "filter": self._filter.save(),
            "offloads": self._offloads,
            "pairs": self._pairs,
            "receiving": [receiver.save() for receiver in self._receivers],
            "sending": [[index, chain.head] for index, chain in self._sending.items()],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take back what ``save`` gave."""
        super().load(state)
        kept = {key: state[key] for key in ("filter", "offloads", "pairs", "receiving", "sending")}
        self._loaded = kept if state["driver_features"] else None  # it was not running: nothing to keep

    def stop(self) -> None:
        """What was loaded into a device that is not started belongs to its driver's last life."""
        super().stop()
        self._loaded = None


class _Sink(FrameSink):
    """Frames of other guests, to the receive queue that their sender's number makes out."""

    def __init__(self, net: Net) -> None:
        self._net = net

    def deliver(self, pair: int, header: bytes, views: Sequence[memoryview], size: int) -> None:
        net = self._net
        if net.link_up:
            net._receivers[pair % net._pairs].deliver(header, views, size)

    def flush(self) -> None:
        for receiver in self._net._receivers:
            receiver.flush()


def derived_mac(seed: str) -> bytes:
    """The locally administered address that belongs to *seed*."""
    digest = sha256(seed.encode()).digest()
    return bytes((digest[0] & 0xFC | 2, *digest[1:6]))
