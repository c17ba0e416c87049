"""The vhost-user front end: any device that another process serves, by its socket.

Sources: QEMU docs/interop/vhost-user.rst; the device types are those of virtio 1.2, section 5.
"""

from __future__ import annotations

import os
import select
from _thread import allocate_lock
from functools import partial

from pyvmm.host.notice import notice
from pyvmm.loop import EDGE, READ
from pyvmm.virtio import ids
from pyvmm.virtio.config_space import ConfigSpace
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.vhost import user_protocol as p
from pyvmm.virtio.vhost.device import VhostDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.errors import PyvmmError
    from pyvmm.virtio.vhost.back_end_connection import BackEndConnection

#: name: (identifier, queues, bytes of configuration space). The identifiers are section 5's.
TYPES = {
    "net": (ids.NET, 2, 12),
    "block": (ids.BLOCK, 1, 60),
    "console": (ids.CONSOLE, 2, 12),
    "rng": (ids.ENTROPY, 1, 0),
    "scsi": (8, 3, 36),
    "input": (18, 2, 136),
    "vsock": (ids.SOCKET, 3, 8),
    "sound": (25, 4, 12),
    "fs": (ids.FILE_SYSTEM, 2, 40),
    "i2c": (ids.I2C, 1, 0),
    "gpio": (ids.GPIO, 2, 8),
}
#: What is tried for a device we know nothing of, as long as the back end refuses.
CONFIG_SIZES = (256, 128, 64, 32, 16, 8, 4)
QUEUE_SIZE = 256
MAX_QUEUES = 64
MAX_TAG = 36
#: Seconds from one message of the back end's until the next is read: one that sends them without end must not
#: keep other threads from running.
PAUSE = 0.01

_BLK_F_MQ = 1 << 12
_BLK_NUM_QUEUES = 34  # offset of num_queues (5.2.4)
_NET_F_MQ = 1 << 22
# Features that need the control queue (5.1.3.1): CTRL_VQ, CTRL_RX, CTRL_VLAN, CTRL_RX_EXTRA, GUEST_ANNOUNCE,
# MQ, CTRL_MAC_ADDR, NOTF_COAL, HASH_REPORT, RSS.
_NET_CONTROL = sum(1 << bit for bit in (17, 18, 19, 20, 21, 22, 23, 53, 57, 60))
# Those that tell of configuration fields: MTU, MAC, STATUS.
_NET_CONFIG = sum(1 << bit for bit in (3, 5, 16))
# The fields of this one lie beyond the 12 bytes that are asked for: back ends may have no more.
_NET_F_SPEED_DUPLEX = 1 << 63


class VhostUser(VhostDevice):
    """A device of type *identifier*, served at the other end of *connection*.

    :param kind: what users call the device
    :param queues: how many, of *queue_size* entries each
    :param config_size: bytes of its configuration space; None asks the back end for as many as it has
    :param config: the configuration space, for a back end that has none to give

    What the back end does by itself (a message, an error, the end of its connection) is handled in a thread
    of the device's own: an answer may be slow in coming.

    The connection is the device's, unless it is kept for the next machine's. Raises DeviceError when the back
    end cannot be connected to, does not speak the protocol or has fewer queues.
    """

    own_thread = True
    shares_memory = True
    #: Whether the loop watches its descriptors.
    _watching = False

    def __init__(
        self,
        connection: BackEndConnection,
        identifier: int,
        kind: str,
        *,
        queues: int,
        queue_size: int = QUEUE_SIZE,
        config_size: int | None = None,
        config: bytes | None = None,
    ) -> None:
        self.device_id = identifier
        self.name = kind
        self.queue_sizes = (queue_size,) * queues
        self.connection = connection
        self.channel = connection.next()
        self._own_config = config
        self._told = False  # whether the user was told that the back end is lost
        self._handling = allocate_lock()  # held while a callback runs; taken before the runtime's
        self._start: object = None  # another one for each start
        try:
            most = self.channel.queue_num
            if most is not None and queues > most:
                raise DeviceError(f"{connection.place}: it has {most} queues and {queues} were asked for")
            first = self._first_config(config_size)
            self.config_fields = {"data": f"bytes{len(first)}"} if first else {}
            self.config_writable = frozenset(self.config_fields)
            super().__init__(self.channel)
            if first:
                self.config.data = first
        except BaseException:
            self.close()
            raise

    @property
    def offered_features(self) -> int:
        """What the back end has, less what cannot pass between it and the driver here."""
        features = super().offered_features
        if self.device_id == ids.NET:
            features &= ~_NET_F_SPEED_DUPLEX
            if len(self.queue_sizes) % 2 == 0:
                features &= ~_NET_CONTROL
            if not self._remote_config:
                features &= ~_NET_CONFIG
        if self.device_id == ids.BLOCK and len(self.queue_sizes) == 1:
            features &= ~_BLK_F_MQ
        return features

    # The device's life

    def attached(self) -> None:
        """Watch the connection, also while the driver has not started the device."""
        loop = self.runtime.loop
        self._watching = True
        loop.add(self.channel.fd, select.EPOLLRDHUP, partial(self._handled, self._hung_up))
        back = self.connection.back
        if back is not None:
            loop.add(back.fileno(), READ, partial(self._handled, self._back_request))

    def started(self) -> None:
        """Hand the queues over, and with them a new eventfd for errors."""
        # Never read: the back end could make that block. What a back end signalled before counts no more.
        self.error_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        start = self._start = object()
        try:
            super().started()
            gave_up = partial(self._handled, partial(self._gave_up, start))
            self.runtime.loop.add(self.error_fd, READ | EDGE, gave_up)
        except BaseException as error:
            self._close_error()
            self._told = isinstance(error, DeviceError)  # the transport tells why it did not start
            raise

    def stopped(self) -> None:
        """Take the queues back."""
        super().stopped()
        self._close_error()

    def _close_error(self) -> None:
        fd, self.error_fd = self.error_fd, -1
        if fd >= 0:
            self.runtime.loop.remove(fd)
            os.close(fd)

    def _handled(self, callback: Callable[[], object], _: int = 0) -> None:
        """Call *callback*, unless the device is closed."""
        with self._handling:
            if self._watching:
                callback()

    def halted(self, error: PyvmmError) -> None:
        """The user is told why, and not a second time."""
        self._told = True

    def not_stopped(self, error: DeviceError) -> None:
        """The connection is over: ``_hung_up`` is called and tells the user."""

    def close(self) -> None:
        """Let go of the connection, for the next machine's device if it is kept; else close it."""
        self._told = True  # the loop may see the connection's end before it stops to watch it
        if not self.connection.kept:
            self.channel.end("this machine is over")  # a callback may wait for an answer
        with self._handling:
            if self._watching:
                self._watch_no_more()
            self._watching = False
        self.connection.close_unless_kept()

    def _watch_no_more(self) -> None:
        self.runtime.loop.remove(self.channel.fd)
        if self.connection.back is not None:
            self.runtime.loop.remove(self.connection.back.fileno())

    def ending(self) -> None:
        """The back end has a second in all for what it is asked now, and for what it was asked before."""
        self.channel.end_soon()

    def _hung_up(self) -> None:
        self.runtime.loop.remove(self.channel.fd)
        self.channel.end("its back end closed the connection")
        self._close_back()
        why = f"{self.channel.place}: {self.channel.lost}"
        with self.runtime.lock:
            if self.runtime.active:
                self.runtime.halt(DeviceError(why))
            elif not self._told:
                notice(f"virtio {self.name} gone", f"{self.name} is gone: {why}")
        self._told = True

    def _gave_up(self, start: object) -> None:
        with self.runtime.lock:
            if start is not self._start or self.error_fd < 0:
                return  # it was of a start before
            self.runtime.loop.remove(self.error_fd)  # once is enough, however often it is signalled
            if self.runtime.active:
                self.runtime.halt(DeviceError(f"{self.channel.place}: it gave up on a queue"))

    # Configuration space

    @property
    def _remote_config(self) -> bool:
        return bool(self.channel.protocol & p.PROTOCOL_F_CONFIG) and self._own_config is None

    def _first_config(self, size: int | None) -> bytes:
        if not self._remote_config:
            return self._own_config or bytes(size or 0)
        with self.channel.operation():
            for wanted in CONFIG_SIZES if size is None else (size,) if size else ():
                data = self.channel.get_config(wanted)
                if data is not None:
                    return self._corrected(data)
        if size:
            raise DeviceError(f"{self.channel.place}: it does not tell the configuration of {self.name}")
        return b""

    def _corrected(self, data: bytes) -> bytes:
        """The back end's fields, but for the number of queues, which was chosen here."""
        if self.device_id == ids.BLOCK and len(data) >= _BLK_NUM_QUEUES + 2:
            queues = len(self.queue_sizes).to_bytes(2, "little")
            return data[:_BLK_NUM_QUEUES] + queues + data[_BLK_NUM_QUEUES + 2 :]
        return data

    def config_written(self, offset: int, size: int) -> None:
        """Pass it on; the back end alone knows what may be written."""
        if self._remote_config and not self.channel.lost:
            try:
                with self.channel.operation():
                    self.channel.set_config(offset, self.config.read(offset, size))
                    self._refresh()
            except DeviceError:
                pass  # ``_hung_up`` tells the user
        elif self._own_config is not None:
            self.config.data = self._own_config

    def _refresh(self) -> None:
        size = len(self.config)
        data = self.channel.get_config(size) if size and self._remote_config else None
        if data is not None:
            self.config.data = self._corrected(data)

    # Requests of the back end

    def _back_request(self) -> None:
        back, receiver = self.connection.back, self.connection.receiver
        assert back is not None and receiver is not None
        try:
            message = receiver.receive()
        except p.ProtocolError as error:
            self.channel.end(str(error))
            self._close_back()
            return
        self.runtime.loop.modify(back.fileno(), 0)
        self.runtime.loop.call_later(PAUSE, partial(self._handled, self._read_on))
        if message is None:
            return
        known = message.request == p.BACKEND_CONFIG_CHANGE_MSG
        if message.flags & p.NEED_REPLY and not message.flags & p.REPLY:
            try:  # before we ask anything: it may wait for this
                p.send(back, message.request, p.U64.pack(not known), flags=p.REPLY)
            except p.ProtocolError as error:
                self.channel.end(str(error))
                return
        if known and not self.channel.lost:
            try:
                self._refresh()
            except DeviceError:
                return
            with self.runtime.lock:
                self.config_changed()

    def _read_on(self) -> None:
        if self.connection.back is not None:
            self.runtime.loop.modify(self.connection.back.fileno(), READ)

    def _close_back(self) -> None:
        if self.connection.back is not None:
            self.runtime.loop.remove(self.connection.back.fileno())
            self.connection.close_back()


def fs_config(tag: str, request_queues: int, error: Callable[[str], Exception]) -> bytes:
    """The configuration space of a file system called *tag* (5.11.4), which its back end does not give.

    *request_queues*: from 1 on, without the high priority queue. Raises what *error* makes of a sentence.
    """
    name = tag.encode(errors="surrogateescape")
    if not 0 < len(name) <= MAX_TAG or b"\0" in name:
        raise error(f"tag={tag} must have 1 to {MAX_TAG} bytes; the guest mounts it by that name")
    if request_queues < 1:
        raise error("a file system has one queue for urgent requests and at least one for others: queues=2")
    space = ConfigSpace({"tag": f"bytes{MAX_TAG}", "num_request_queues": "u32"})
    space.tag, space.num_request_queues = name, request_queues
    return space.read(0, len(space))
