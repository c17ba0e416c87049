"""One front end of our vhost-user back end: its messages, its rings, the device behind them.

Source: QEMU docs/interop/vhost-user.rst. Everything runs in one loop: messages, kicks, and the device.
Messages of a front end are checked as accesses of a guest are.
"""

from __future__ import annotations

import socket

from pyvmm.errors import PyvmmError
from pyvmm.host.notice import notice
from pyvmm.loop import EDGE, READ, Loop
from pyvmm.virtio import features as f
from pyvmm.virtio.ring.queue import MAX_SIZE
from pyvmm.virtio.runtime import Transport
from pyvmm.virtio.vhost import user_protocol as p
from pyvmm.virtio.vhost.server.ring import ServedRing, checked_eventfd
from pyvmm.virtio.vhost.server.shared_memory import SharedMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.host.eventfd import EventSignaller
    from pyvmm.virtio.device import VirtioDevice

#: While a ring is to stop: seconds between two looks at the number of requests in flight, and seconds without
#: one completed after which the rest is not waited for. Those are taken again when the ring goes on.
LOOK = 0.005
STALLED = 0.2


class Session(Transport):
    """One front end at the other end of *sock*.

    :param over: called when it has left or broke the rules, with the reason
    :param failed: called with what the device's own code raised
    :param signaller: signals the eventfds that it sends; stays the caller's
    """

    def __init__(
        self,
        device: VirtioDevice,
        sock: socket.socket,
        loop: Loop,
        over: Callable[[str], object],
        failed: Callable[[Exception], object],
        signaller: EventSignaller,
    ) -> None:
        self.device = device
        self.runtime = device.runtime
        #: What the driver and the front end accepted; None until SET_FEATURES.
        self.features: int | None = None
        self.protocol = 0
        self.rings = [ServedRing() for _ in device.queue_sizes]
        self.memory: SharedMemory | None = None
        self._socket = sock
        self._loop = loop
        self._over = over
        self._on_failure = failed
        self._receiver = p.MessageReceiver(sock)
        self._signaller = signaller
        self._status = 0
        self._back: socket.socket | None = None
        self._running = False
        self._draining = False
        self._closed = False
        loop.add(sock.fileno(), READ, self._readable)

    def close(self) -> None:
        """Stop the device and close everything the front end sent. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove(self._socket.fileno())
        self._halt()
        for ring in self.rings:
            for name in ("kick", "call", "err"):
                self._replace(ring, name, -1)
        if self.memory is not None:
            self.memory.close()
        if self._back is not None:
            self._back.close()
        self._receiver.close()
        self._socket.close()

    # Messages

    def _readable(self, _: int) -> None:
        try:
            message = self._receiver.receive()
            if message is None:
                return
            try:
                self._take(message)
            finally:
                message.close()
        except p.ProtocolError as error:
            self._end(str(error))
        except OSError as error:  # what it sent is a file that cannot be used, or this process has too many
            self._end(f"a descriptor that it sent cannot be used: {error.strerror}")

    def _end(self, why: str) -> None:
        self.close()
        self._over(why)

    def _take(self, message: p.Message) -> None:
        handler = _HANDLERS.get(message.request)
        acknowledged = self.protocol & p.PROTOCOL_F_REPLY_ACK and message.flags & p.NEED_REPLY
        try:
            if handler is None:
                raise p.ProtocolError(f"{message.name} is not offered")
            answer = handler(self, message)
        except p.ProtocolError as error:
            if not acknowledged:
                raise
            notice("vhost-user request", f"{self.device.name}: a request was refused: {error}")
            self._reply(message.request, p.U64.pack(1))
            return
        if answer is not None:
            self._reply(message.request, answer)
        elif acknowledged and message.request != p.GET_VRING_BASE:
            self._reply(message.request, p.U64.pack(0))
        self._look()

    def _reply(self, request: int, payload: bytes) -> None:
        p.send(self._socket, request, payload, flags=p.REPLY)

    # Features

    def _get_features(self, message: p.Message) -> bytes:
        return p.U64.pack(self.device.offered_features | p.F_PROTOCOL_FEATURES)

    def _set_features(self, message: p.Message) -> None:
        (features,) = message.unpack(p.U64)
        wrong = features & ~(self.device.offered_features | p.F_PROTOCOL_FEATURES)
        if wrong:
            raise p.ProtocolError(f"SET_FEATURES names what was not offered: {f.describe(wrong)}")
        if self._running and features != self.features:
            raise p.ProtocolError("SET_FEATURES came while the rings run")
        self.features = features

    def _get_protocol_features(self, message: p.Message) -> bytes:
        return p.U64.pack(self._offered_protocol)

    def _set_protocol_features(self, message: p.Message) -> None:
        (features,) = message.unpack(p.U64)
        if features & ~self._offered_protocol:
            raise p.ProtocolError(f"SET_PROTOCOL_FEATURES {features:#x} has some that were not offered")
        self.protocol = features

    @property
    def _offered_protocol(self) -> int:
        features = p.PROTOCOL_F_MQ | p.PROTOCOL_F_REPLY_ACK | p.PROTOCOL_F_BACKEND_REQ
        features |= p.PROTOCOL_F_RESET_DEVICE | p.PROTOCOL_F_STATUS
        return features | p.PROTOCOL_F_CONFIG if len(self.device.config) else features

    def _get_queue_num(self, message: p.Message) -> bytes:
        return p.U64.pack(len(self.rings))

    def _set_status(self, message: p.Message) -> None:
        before, (self._status,) = self._status, message.unpack(p.U64)
        if not self._status:
            self._halt()
        elif (
            self._status & ~before & f.DRIVER_OK
            and not self._running
            and any(map(self._eligible, self.rings))
        ):
            self._start()

    def _get_status(self, message: p.Message) -> bytes:
        broken = self._running and not self.runtime.active
        return p.U64.pack(self._status | (f.DEVICE_NEEDS_RESET if broken else 0))

    def _set_owner(self, message: p.Message) -> None:
        """A front end says hello."""

    def _reset(self, message: p.Message) -> None:
        self._halt()
        for ring in self.rings:
            ring.enabled = False

    def _set_back_channel(self, message: p.Message) -> None:
        fd = message.fd()
        try:
            channel = socket.socket(fileno=fd)
        except OSError as error:
            p.close(fd)
            raise p.ProtocolError(f"SET_BACKEND_REQ_FD came with no socket: {error.strerror}") from None
        if channel.family != socket.AF_UNIX or channel.type != socket.SOCK_STREAM:
            channel.close()
            raise p.ProtocolError("SET_BACKEND_REQ_FD came with a socket that is no UNIX stream")
        if self._back is not None:
            self._back.close()
        self._back = channel

    # Configuration space

    def _get_config(self, message: p.Message) -> bytes:
        offset, size, flags, _ = _config(message)
        return p.CONFIG.pack(offset, size, flags) + self.device.config.read(offset, size)

    def _set_config(self, message: p.Message) -> None:
        offset, size, _, data = _config(message)
        if self.device.config.write(offset, data):
            self.device.config_written(offset, size)

    # Memory and rings

    def _set_mem_table(self, message: p.Message) -> None:
        memory = SharedMemory(message)
        if self._running and not self._all_inside(memory):
            memory.close()
            raise p.ProtocolError("SET_MEM_TABLE takes the memory of a running ring away")
        again = self._running
        self._halt()
        if self.memory is not None:
            self.memory.close()
        self.memory = memory
        if again:
            self._start()

    def _all_inside(self, memory: SharedMemory) -> bool:
        try:
            for ring in self.rings:
                for user in ring.users or ():
                    memory.guest_address(user)
        except p.ProtocolError:
            return False
        return True

    def _set_vring_num(self, message: p.Message) -> None:
        ring, size = self._state(message)
        ring.size = size

    def _set_vring_base(self, message: p.Message) -> None:
        ring, base = self._state(message)
        if base > 0xFFFF:
            raise p.ProtocolError(f"SET_VRING_BASE says {base}, and an index has 16 bits")
        ring.base = base

    def _set_vring_addr(self, message: p.Message) -> None:
        index, _, desc, used, avail, _ = message.unpack(p.VRING_ADDR)
        self._ring(index).users = (desc, avail, used)

    def _set_vring_enable(self, message: p.Message) -> None:
        ring, enabled = self._state(message)
        ring.enabled = bool(enabled)
        if self._running and not enabled:
            self.runtime.queues[self.rings.index(ring)].ready = False

    def _set_vring_kick(self, message: p.Message) -> None:
        index = self._set_fd(message, "kick")
        ring = self.rings[index]
        if ring.kick < 0:
            raise p.ProtocolError(f"ring {index} has no kick: polling is not offered")
        # Edge: the counter need not be read, and each write of it is one more event.
        self._loop.add(ring.kick, READ | EDGE, lambda _: self._kicked(index))

    def _set_vring_call(self, message: p.Message) -> None:
        self._set_fd(message, "call")

    def _set_vring_err(self, message: p.Message) -> None:
        self._set_fd(message, "err")

    def _get_vring_base(self, message: p.Message) -> None:
        """Stop: what is in flight gets the chance to come back, then the answer goes out."""
        ring, _ = self._state(message)
        index = self.rings.index(ring)
        self._draining = True
        if self._running:
            for queue in self.runtime.queues:
                queue.ready = False
        self._loop.modify(self._socket.fileno(), 0)
        self._drain(index, -1, 0.0)

    def _drain(self, index: int, before: int, waited: float) -> None:
        if self._closed:
            return
        flight = sum(queue.in_flight for queue in self.runtime.queues) if self.runtime.active else 0
        if flight and (flight != before or waited < STALLED):
            waited = waited + LOOK if flight == before else 0.0
            self._loop.call_later(LOOK, lambda: self._drain(index, flight, waited))
            return
        self._draining = False
        self._halt()
        ring = self.rings[index]
        self._replace(ring, "kick", -1)
        try:
            self._reply(p.GET_VRING_BASE, p.VRING_STATE.pack(index, ring.base))
            self._loop.modify(self._socket.fileno(), READ)
        except p.ProtocolError as error:
            self._end(str(error))

    def _state(self, message: p.Message) -> tuple[ServedRing, int]:
        index, number = message.unpack(p.VRING_STATE)
        return self._ring(index), number

    def _ring(self, index: int) -> ServedRing:
        if index >= len(self.rings):
            raise p.ProtocolError(f"ring {index} of a device that has {len(self.rings)}")
        return self.rings[index]

    def _set_fd(self, message: p.Message, name: str) -> int:
        (value,) = message.unpack(p.U64)
        index: int = value & p.RING_MASK
        ring = self._ring(index)
        fd = -1 if value & p.NO_FD else checked_eventfd(message, self._signaller)
        self._replace(ring, name, fd)
        return index

    def _replace(self, ring: ServedRing, name: str, fd: int) -> None:
        old = ring.replace(name, fd, self._signaller)
        if old >= 0:
            self._loop.remove(old)
            p.close(old)

    # The device

    def _eligible(self, ring: ServedRing) -> bool:
        """Whether everything is there that the ring needs to run."""
        if self.features is None or self.memory is None:
            return False
        enabled = ring.enabled or not self.features & p.F_PROTOCOL_FEATURES
        return enabled and ring.kick >= 0 and ring.users is not None and ring.size > 0

    def _look(self) -> None:
        """A message may have made rings ready: start the device with all it has, or bring them in."""
        if self._closed or self._draining:
            return
        if self._running:
            for index, ring in enumerate(self.rings):
                if self._eligible(ring) and not self.runtime.queues[index].ready:
                    self._join(index)
        elif all(map(self._eligible, self.rings)):
            self._start()

    def _kicked(self, index: int) -> None:
        """A kick also starts a device whose driver leaves some queues alone."""
        if not self._running and self._eligible(self.rings[index]):
            self._start()
        self.runtime.run_queue(index)

    def _start(self) -> None:
        device, features = self.device, self.features or 0
        assert self.memory is not None
        self._running = True
        try:
            if not features & f.F_VERSION_1:
                raise p.ProtocolError("the driver is of before virtio 1.0, and the device is not")
            for index, ring in enumerate(self.rings):
                if self._eligible(ring):
                    self._lay_out(index)
            self.runtime.start(self.memory.guest, features & ~p.F_PROTOCOL_FEATURES, self)
        except (PyvmmError, OSError) as error:
            notice(f"virtio {device.name} start", f"{device.name} does not start: {error}")
            self.needs_reset()
            return
        except Exception as error:
            self.failed(error)
            return
        for queue in self.runtime.queues:  # a notification may have come before the start
            self.runtime.run_queue(queue.index)

    def _join(self, index: int) -> None:
        """A ring becomes ready while others run."""
        assert self.memory is not None
        runtime = self.runtime
        if not runtime.active:
            return
        queue = runtime.queues[index]
        try:
            with runtime.lock:
                if self.rings[index].begun:  # it was disabled for a while
                    queue.ready = True
                else:
                    self._lay_out(index)
                    queue.activate(self.memory.guest, runtime.driver_features)
        except PyvmmError as error:
            queue.ready = False
            raise p.ProtocolError(f"ring {index} cannot run: {error}") from None
        runtime.run_queue(index)

    def _lay_out(self, index: int) -> None:
        queue, ring = self.runtime.queues[index], self.rings[index]
        assert self.memory is not None and ring.users is not None
        # The protocol does not tell a front end the device's maximum size, so every legal size is accepted.
        queue.max_size = max(queue.max_size, min(ring.size, MAX_SIZE))
        queue.size = ring.size
        queue.desc, queue.driver, queue.device = map(self.memory.guest_address, ring.users)
        queue.begin_at(ring.base)
        queue.ready = ring.begun = True

    def _halt(self) -> None:
        """Stop the device; every ring remembers where it stood."""
        if not self._running:
            return
        self._running = False
        with self.runtime.lock:
            for ring, queue in zip(self.rings, self.runtime.queues, strict=True):
                if ring.begun:
                    ring.base, ring.begun = queue.position, False
        self.runtime.stop()

    # For the runtime

    def used(self, queue: int) -> None:
        """Signal the eventfd that the front end gave for it."""
        self.rings[queue].signal_call()

    def config_changed(self) -> None:
        """Tell the front end, if there is a back-end channel."""
        if self._back is not None:
            try:
                p.send(self._back, p.BACKEND_CONFIG_CHANGE_MSG)
            except p.ProtocolError:
                pass  # its socket is full of messages that it has not read

    def needs_reset(self) -> None:
        """Signal the eventfd for errors of each ring."""
        for ring in self.rings:
            ring.signal_err()

    def kick(self, queue: int) -> None:
        """Run a queue again."""
        self._loop.call_soon(lambda: self.runtime.run_queue(queue))

    def failed(self, error: Exception) -> None:
        """A defect in the device's code."""
        self._on_failure(error)


def _config(message: p.Message) -> tuple[int, int, int, bytes]:
    """(offset, size, flags, bytes) of GET_CONFIG and SET_CONFIG. Raises ProtocolError."""
    if len(message.payload) < p.CONFIG.size:
        raise p.ProtocolError(f"{message.name} came with {len(message.payload)} bytes")
    offset, size, flags = p.CONFIG.unpack_from(message.payload)
    data = message.payload[p.CONFIG.size :]
    if size > p.MAX_CONFIG or offset > p.MAX_CONFIG or len(data) != size:
        raise p.ProtocolError(f"{message.name} of {size} bytes at {offset}, with {len(data)} beside it")
    return offset, size, flags, data


_HANDLERS: dict[int, Callable[[Session, p.Message], bytes | None]] = {
    p.GET_FEATURES: Session._get_features,
    p.SET_FEATURES: Session._set_features,
    p.SET_OWNER: Session._set_owner,
    p.RESET_OWNER: Session._reset,
    p.SET_MEM_TABLE: Session._set_mem_table,
    p.SET_VRING_NUM: Session._set_vring_num,
    p.SET_VRING_ADDR: Session._set_vring_addr,
    p.SET_VRING_BASE: Session._set_vring_base,
    p.GET_VRING_BASE: Session._get_vring_base,
    p.SET_VRING_KICK: Session._set_vring_kick,
    p.SET_VRING_CALL: Session._set_vring_call,
    p.SET_VRING_ERR: Session._set_vring_err,
    p.GET_PROTOCOL_FEATURES: Session._get_protocol_features,
    p.SET_PROTOCOL_FEATURES: Session._set_protocol_features,
    p.GET_QUEUE_NUM: Session._get_queue_num,
    p.SET_VRING_ENABLE: Session._set_vring_enable,
    p.SET_BACKEND_REQ_FD: Session._set_back_channel,
    p.GET_CONFIG: Session._get_config,
    p.SET_CONFIG: Session._set_config,
    p.RESET_DEVICE: Session._reset,
    p.SET_STATUS: Session._set_status,
    p.GET_STATUS: Session._get_status,
}
