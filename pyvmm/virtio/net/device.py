"""The network device. Section 5.1."""

from __future__ import annotations

from _thread import allocate_lock
from functools import partial
from itertools import chain as chained

from pyvmm.backends.net.base import HEADER, MAX_FRAME, MIN_FRAME, FrameSink
from pyvmm.host.digest import digest
from pyvmm.host.notice import notice
from pyvmm.loop import ERROR, HANGUP, PRIORITY, READ, WRITE
from pyvmm.virtio import ids
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.errors import ChainError
from pyvmm.virtio.net import persist
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
    F_SPEED_DUPLEX,
    F_STATUS,
    GUEST_BITS,
    HOST_BITS,
    NAMES,
)
from pyvmm.virtio.net.filter import Filter
from pyvmm.virtio.net.receive import MORE, STARVED, Receiver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from pyvmm.backends.net.base import NetBackend
    from pyvmm.backends.net.pcap import Capture
    from pyvmm.errors import PyvmmError
    from pyvmm.virtio.ring.chain import Chain
    from pyvmm.virtio.ring.queue import Queue

#: Of the status field (5.1.4).
S_LINK_UP = 1
#: Of the fields speed and duplex (5.1.4).
SPEED_UNKNOWN, DUPLEX_UNKNOWN = 0xFFFF_FFFF, 0xFF
QUEUE_SIZE = 256
CONTROL_SIZE = 64
#: Frames sent before they are published to the driver and flushed to the other end.
PUBLISH_EACH = 32


class Net(VirtioDevice):
    """A network device in front of *backend*, which it closes unless it is ``kept``, as *capture*.

    :param mac: the driver's address, 6 bytes; by default one that belongs to *seed*
    :param mtu: the largest packet the driver shall send, 68 to 65535; by default the backend's, if it has one
    :param pairs: queue pairs, as many as the backend has at most
    :param capture: gets every frame
    :param seed: what the default address is derived from: the same text, the same address
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
        if backend.has_speed:
            self.config_fields = {**self.config_fields, "speed": "u32", "duplex": "u8"}
        super().__init__()
        self.backend = backend
        self.paths = backend.paths
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
        if backend.has_speed:
            self.features |= F_SPEED_DUPLEX
        self.config.max_virtqueue_pairs = pairs
        self._updating_link = allocate_lock()
        #: Frames of the driver's that were lost or broke a rule.
        self.dropped = 0
        self._filter = Filter(bytes(6))
        #: Queue pairs in use.
        self._pairs = 1
        self._offloads = 0
        #: The receive side of each pair while the device runs; none before and after. Other threads take it
        #: once: a reset replaces it.
        self.receivers: tuple[Receiver, ...] = ()
        self._reads = [backend.reader(pair) for pair in range(pairs)]
        self._writes = [backend.writer(pair) for pair in range(pairs)]
        self._sending: dict[int, Chain] = {}  # by queue: the chain that the backend has no room for
        #: Bytes of the last frame that the driver sent.
        self.last_sent = 0
        self._watching: dict[int, int] = {}  # by pair: the descriptor
        self._reconnecting = False  # ``_reconnected`` is called in the loop's next turn
        # A state to begin with, for the start that follows a load.
        self._loaded: dict[str, Any] | None = None
        backend.lock = self.runtime.lock
        backend.on_change = self._backend_changed

    def attached(self) -> None:
        """Attach the backend, and begin the capture. Raises NetBackendError."""
        self.backend.attach(self.runtime.loop)
        if self._capture is not None:
            self._capture.start()
        self.config.mac = self._mac or derived_mac(f"{self._seed} {self.name} {self.backend.identity}")
        self._update_link()

    @property
    def mac(self) -> bytes:
        """The MAC address in the configuration space, 6 bytes."""
        return bytes(self.config.mac)

    @property
    def link_up(self) -> bool:
        """Whether frames go through."""
        return self.backend.plugged and self.backend.carrier

    def set_link(self, up: bool) -> None:
        """Plug the cable in, or pull it out. Any thread."""
        self.backend.plugged = up
        self.backend.set_carrier(up)
        self._update_link()

    @property
    def received_dropped(self) -> int:
        """Frames for the driver that were lost since it started."""
        return sum(receiver.dropped for receiver in self.receivers)

    # The driver starts and stops

    def started(self) -> None:
        """Begin as negotiated.

        Raises the backend's OSError; KeyError, TypeError or ValueError for a loaded state that does not fit.
        """
        state = self._begin()
        pairs = self._max_pairs if self.has(F_MQ) else 1
        queues = self.runtime.queues
        self.receivers = tuple([self._receiver(queues[2 * pair]) for pair in range(pairs)])
        if state is not None:
            for receiver, heads in zip(self.receivers, state["receiving"], strict=True):
                receiver.load(heads)
            for index, head in state["sending"]:
                self._sending[index] = queues[index].walk(head)
        self.backend.started(self._offloads)
        self.backend.enable(self._pairs)
        self._watch()
        self.backend.sink = _Sink(self)

    def _begin(self) -> dict[str, Any] | None:
        """Begin with one pair and no filter, or with the state that was loaded; returns that."""
        state, self._loaded = self._loaded if self.runtime.restored else None, None
        self._filter = Filter(self.mac)
        self._offloads = self.offered_to_guest()
        self._pairs = 1
        if state is not None:
            persist.load_filter(self._filter, state["filter"])
            self._offloads, self._pairs = state["offloads"], state["pairs"]
            if not 1 <= self._pairs <= self._max_pairs:
                raise ValueError(f"{self._pairs} queue pairs are in use, and it has {self._max_pairs}")
            self._update_link()  # the link's state is this host's, not the saved one
        self._control = Control(self._filter, self._set_mac, self._set_pairs, self._set_offloads)
        self._control_index = 2 * self._max_pairs if self.has(F_MQ) else 2
        return state

    def _receiver(self, queue: Queue) -> Receiver:
        runtime = self.runtime
        return Receiver(
            queue,
            offloads=self._offloads,
            mergeable=self.has(F_MRG_RXBUF),
            foreign=self.backend.foreign,
            wanted=self._filter,
            capture=self._capture,
            used=lambda: runtime.interrupt_driver(queue.index),
            broken=lambda error: runtime.soon(lambda: self._raise(error)),
        )

    def stopped(self) -> None:
        """No frame touches guest memory any more."""
        self._stop_receiving()
        self.receivers = ()
        self._sending.clear()
        self._watching.clear()
        self._reconnecting = False
        self.backend.stopped()

    def halted(self, error: PyvmmError) -> None:
        """Take no more frames from other guests."""
        self._stop_receiving()

    def _stop_receiving(self) -> None:
        self.backend.sink = None
        for receiver in self.receivers:
            receiver.close()

    def close(self) -> None:
        """Detach backend and capture, and close them unless they are kept."""
        self.backend.close_unless_kept()
        if self._capture is not None:
            self._capture.close_unless_kept()

    # Queues

    def process(self, queue: Queue) -> None:
        """Send, go on receiving, or carry out commands."""
        index = queue.index
        if index == self._control_index:
            self.runtime.serve(queue)
        elif index & 1:
            self._send(index >> 1, queue)
        elif index >> 1 < len(self.receivers):
            receiver = self.receivers[index >> 1]
            receiver.resume()
            if not receiver.starved and self._watching.get(index >> 1, -1) >= 0:
                self._rewatch(index >> 1)
                self._receive(index >> 1)

    def handle(self, queue: int, chain: Chain) -> None:
        """One command of the control queue (5.1.6.5). Raises ChainError without room for its status."""
        if not chain.writable:
            raise ChainError("a command without room for its status (5.1.6.5)")
        chain.write(self._control.carry_out(chain.read_rest(LIMIT)))

    def _send(self, pair: int, queue: Queue) -> None:
        backend, capture, up = self.backend, self._capture, self.link_up
        runtime, push_head, left = self.runtime, queue.push_head, PUBLISH_EACH
        outlet = pair % backend.pairs
        write = self._writes[outlet]
        chains: Iterable[Chain] = runtime.turn(queue)
        if queue.index in self._sending:
            chains = chained((self._sending.pop(queue.index),), chains)
        for chain in chains:
            views = chain.readable
            size = self.last_sent = sum(map(len, views)) - HEADER
            if chain.writable or not MIN_FRAME <= size <= MAX_FRAME:
                self._refuse_frame(chain, size)
            elif up:
                try:
                    write(views)
                except BlockingIOError:
                    self._sending[queue.index] = chain  # sent when the backend is writable
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
            push_head(chain.head, 0)
            left -= 1
            if not left:
                left = PUBLISH_EACH
                backend.flush()
                runtime.publish(queue)
        backend.flush()
        if backend.blocked:
            self._rewatch(outlet)
        runtime.publish(queue)

    def _refuse_frame(self, chain: Chain, size: int) -> None:
        self.dropped += 1
        if chain.writable:
            why = "with a writable buffer (5.1.6.2.1)"
        elif size < 0:
            why = f"of {size + HEADER} bytes: its header alone has {HEADER} (5.1.6)"
        else:
            why = f"of {size} bytes; a frame has {MIN_FRAME} to {MAX_FRAME}"
        self.runtime.refuse(ChainError(f"a frame to send {why}"))

    def _receive(self, pair: int, drop: bool = False) -> None:
        """Read frames for *pair*, into the driver's buffers unless they are to be dropped."""
        fd = self._watching.get(pair, -1)
        if fd < 0:
            return
        backend, receiver = self.backend, self.receivers[pair]
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
            self.runtime.soon(lambda: self._receive(pair))

    # Descriptors

    def _watch(self) -> None:
        """Read what the backend has for each pair in use, and nothing else."""
        for pair in range(min(len(self.receivers), self.backend.pairs)):
            fd = self.backend.fd(pair) if pair < self._pairs and self.backend.carrier else -1
            old = self._watching.get(pair, -1)
            if old != fd:
                if old >= 0:
                    self.runtime.unwatch(old)
                self._watching[pair] = fd
                if fd >= 0:
                    self.runtime.watch(fd, READ, partial(self._ready, pair))

    def _ready(self, pair: int, events: int) -> None:
        if events & WRITE:
            self.backend.flush()
            waiting = [index for index in self._sending if (index >> 1) % self.backend.pairs == pair]
            for index in waiting:
                self._send(index >> 1, self.runtime.queues[index])
            self._rewatch(pair)
        if events & ~WRITE:
            # A hang-up would be reported over and over: it is read also while the driver has no buffers.
            self._receive(pair, bool(events & (HANGUP | ERROR)) and self.receivers[pair].starved)

    def _rewatch(self, pair: int) -> None:
        """Wait for input unless the driver has no buffers, for room when a frame waits for it."""
        fd = self._watching.get(pair, -1)
        if fd >= 0:
            blocked = any((index >> 1) % self.backend.pairs == pair for index in self._sending)
            # The kernel reports a tap that is deleted as data; who waits for errors alone is not woken then
            # (tun_detach_all in Linux drivers/net/tun.c), who waits for priority data is.
            self.runtime.rewatch(
                fd,
                (PRIORITY if self.receivers[pair].starved else READ)
                | (WRITE if blocked or self.backend.blocked else 0),
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
            or bits & ~self.runtime.driver_features
            or bits & ~sum(GUEST_BITS.values())
        ):
            return False
        self._offloads = sum(offload for offload, bit in GUEST_BITS.items() if bits & bit)
        try:
            self.backend.started(self._offloads)
        except OSError:
            return False
        for receiver in self.receivers:
            receiver.offloads = self._offloads
        return True

    # The link

    def _backend_changed(self) -> None:
        """The backend's other end came or went."""
        self._update_link()
        if self.runtime.active:
            for pair, fd in list(self._watching.items()):
                if fd >= 0 and (fd != self.backend.fd(pair) or not self.backend.carrier):
                    self.runtime.unwatch(fd)
                    self._watching[pair] = -1
            if not self._reconnecting:
                self._reconnecting = True
                self.runtime.soon(self._reconnected)

    def _reconnected(self) -> None:
        self._reconnecting = False
        self._watch()
        for index in list(self._sending):
            self._send(index >> 1, self.runtime.queues[index])

    def _update_link(self) -> None:
        config = self.config
        # ``set_link`` and the loop: what was found out last is what is written last.
        with self._updating_link:
            before = config.generation
            status = S_LINK_UP if self.link_up else 0
            if config.status != status:
                config.status = status
            if self.backend.has_speed:
                found = self.backend.speed() or (SPEED_UNKNOWN, DUPLEX_UNKNOWN)
                if found != (config.speed, config.duplex):
                    config.speed, config.duplex = found
            changed = config.generation != before
        if changed:
            self.config_changed()

    @staticmethod
    def _raise(error: PyvmmError) -> None:
        raise error

    # State

    def before_save(self) -> None:
        """Frames that other guests push are kept until the machine goes on."""
        for receiver in self.receivers:
            receiver.hold()

    def resumed(self) -> None:
        """Run the receive queues for the frames that were kept."""
        for pair, receiver in enumerate(self.receivers):
            receiver.held = False
            self.runtime.kick(2 * pair)

    def save_state(self) -> dict[str, Any]:
        """What net/persist.py lists."""
        return persist.save(self._filter, self._offloads, self._pairs, self.receivers, self._sending)

    def load_state(self, state: dict[str, Any]) -> None:
        """Keep it for ``started``.

        Raises StateError for another version, KeyError where a part is missing.
        """
        self._loaded = persist.checked(self.name, state)


class _Sink(FrameSink):
    """Frames of other guests, to the receive queue that their sender's queue pair corresponds to."""

    def __init__(self, net: Net) -> None:
        self._net = net

    def deliver(self, pair: int, header: bytes, views: Sequence[memoryview], size: int) -> None:
        net = self._net
        # Taken once: a reset, in a thread of this guest's, replaces it.
        receivers = net.receivers
        if receivers and net.link_up:
            receivers[pair % min(net._pairs, len(receivers))].deliver(header, views, size)

    def flush(self) -> None:
        for receiver in self._net.receivers:
            receiver.flush()


def derived_mac(seed: str) -> bytes:
    """The locally administered address that belongs to *seed*."""
    address = digest(seed.encode())
    return bytes((address[0] & 0xFC | 2, *address[1:6]))
