"""The console device: terminals and streams of bytes between guest and host. Section 5.3."""

from __future__ import annotations

from struct import Struct

from pyvmm.host.notice import notice
from pyvmm.virtio import ids
from pyvmm.virtio.console import persist
from pyvmm.virtio.console.port import Port
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.errors import ChainError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyvmm.virtio.ring.chain import Chain
    from pyvmm.virtio.ring.queue import Queue

# Features (5.3.3)
F_SIZE = 1 << 0
F_MULTIPORT = 1 << 1

# Control events (5.3.6.2)
DEVICE_READY = 0
PORT_ADD = 1
PORT_REMOVE = 2
PORT_READY = 3
CONSOLE_PORT = 4
RESIZE = 5
PORT_OPEN = 6
PORT_NAME = 7

#: ``struct virtio_console_control``: port, event, value.
CONTROL = Struct("<IHH")
#: ``struct virtio_console_resize``: columns, rows. Linux before 6.15 reads them the other way round.
_SIZE = Struct("<HH")

#: Numbers (5.3.2) of the control queues; port 0 has queues 0 and 1, port n has 2n + 2 and 2n + 3.
CONTROL_RX = 2
CONTROL_TX = 3

MAX_PORTS = 31
MAX_NAME = 255
_RX_SIZE = 64
_TX_SIZE = 128
_CONTROL_SIZE = 64


class VirtioConsole(VirtioDevice):
    """A console device with *ports*, 1 to 31 of them. The first should be a console.

    With one console port without a name it has no control queues unless *multiport* asks for them: its driver
    then reads the terminal's size from the configuration space, as every kernel can.

    :param multiport: offer VIRTIO_CONSOLE_F_MULTIPORT, by whose messages the driver says when it has opened
        a port, in any case
    """

    device_id = ids.CONSOLE
    name = "console"
    config_fields = {"cols": "u16", "rows": "u16", "max_nr_ports": "u32"}

    def __init__(self, ports: Sequence[Port], multiport: bool = False) -> None:
        self.ports = tuple(ports)
        first = self.ports[0]
        several = len(self.ports) > 1 or not first.console or bool(first.name)
        sizes: tuple[int, ...] = (_RX_SIZE, _TX_SIZE)
        if multiport and not several:
            self.later_queues = 2
        if multiport or several:
            sizes += (_CONTROL_SIZE, _CONTROL_SIZE) + (_RX_SIZE, _TX_SIZE) * (len(self.ports) - 1)
            self.features = F_MULTIPORT
        self.queue_sizes = sizes
        super().__init__()
        self.config.max_nr_ports = len(self.ports)
        # Control messages due, by port and event: one of each, so that their number is bounded.
        self._messages: persist.Messages = {}
        self._served: list[Callable[[], object]] = []

    def tap(self, feed: Callable[[bytes], object]) -> None:
        """Give *feed* a copy of what the guest writes to its first console."""
        for port in self.ports:
            if port.console:
                port.tap = feed
                return

    # The device's life

    def attached(self) -> None:
        """Attach the backends. Raises BackendError."""
        runtime = self.runtime
        queues = runtime.queues
        self._served.clear()
        for number, port in enumerate(self.ports):
            rx = 2 * number + 2 if number else 0
            self._served += [port.room_added, port.transmit]
            if not number and len(queues) > 2:
                self._served += [self._send_messages, self._take_messages]
            port.attach(runtime, number, queues[rx], queues[rx + 1], self.tell_size, self._connection_changed)
            if port.size is not None:
                self.features |= F_SIZE
        self._set_size()

    def started(self) -> None:
        """The driver is ready; one that knows no ports has the first one open."""
        if not self.has(F_MULTIPORT):
            first = self.ports[0]
            first.known = first.open = True
        self._resume_input()

    def resumed(self) -> None:
        """Input goes on."""
        self._resume_input()

    def _resume_input(self) -> None:
        for port in self.ports:
            if port.open:
                port.backend.resume()

    def stopped(self) -> None:
        """The driver knows no port any more; the backends stay open."""
        for port in self.ports:
            port.reset()
        self._messages.clear()

    def close(self) -> None:
        """Detach the backends, and close those that are not kept. Idempotent."""
        for port in self.ports:
            port.backend.close_unless_kept()

    def process(self, queue: Queue) -> None:
        """A port's queue, or a control queue."""
        self._served[queue.index]()

    # Size

    def resized(self) -> None:
        """A terminal at the host's end may have another size now. Any thread."""
        self.runtime.loop.call_soon(self._resized)

    def _resized(self) -> None:
        with self.runtime.lock:
            for port in self.ports:
                size = port.backend.size()
                if size is not None and size != port.size:
                    port.size = size
                    self._set_size()
                    if self.runtime.active:
                        self.tell_size(port)

    def _set_size(self) -> None:
        size = self.ports[0].size
        if size is not None:
            self.config.cols, self.config.rows = size

    def tell_size(self, port: Port) -> None:
        """Tell the driver the size of *port*'s terminal (5.3.4, 5.3.6.2)."""
        if not port.number:
            self.config_changed()
        if port.known and port.console and port.size is not None and self.has(F_MULTIPORT):
            self._tell(port, RESIZE, 0, _SIZE.pack(*port.size))

    # Control messages

    def _connection_changed(self, port: Port) -> None:
        """Somebody connected to the host's end of *port*, or left. In the loop's thread."""
        with self.runtime.lock:
            if self.runtime.active and port.known:
                self._tell(port, PORT_OPEN, port.backend.connected)

    def _tell(self, port: Port, event: int, value: int = 1, more: bytes = b"") -> None:
        if self.has(F_MULTIPORT):
            key = port.number, event
            if key not in self._messages:  # else it is pending already
                self.runtime.soon(self._send_messages)
            self._messages[key] = CONTROL.pack(port.number, event, value) + more

    def _send_messages(self) -> None:
        queue, messages = self.runtime.queues[CONTROL_RX], self._messages
        while messages:
            chain = queue.pop() or (queue.pop() if queue.enable_notification() else None)
            if chain is None:
                break
            message = messages.pop(next(iter(messages)))
            if chain.write(message) < len(message):
                notice(
                    f"virtio {self.name} control", f"{self.name}: a buffer for control messages is too small"
                )
            queue.push(chain, chain.written)
        self.runtime.publish(queue)

    def _take_messages(self) -> None:
        self.runtime.serve(self.runtime.queues[CONTROL_TX])

    def handle(self, queue: int, chain: Chain) -> None:
        """A control message of the driver's (5.3.6.2). Raises ChainError for one that drivers do not send."""
        number, event, value = CONTROL.unpack(chain.read(CONTROL.size))
        if event == DEVICE_READY:
            if value:
                for port in self.ports:
                    self._tell(port, PORT_ADD)
            return
        if number >= len(self.ports):
            raise ChainError(f"a control message for port {number}, and there are {len(self.ports)}")
        port = self.ports[number]
        if event == PORT_READY:
            port.known = bool(value)
            if value:
                self._introduce(port)
        elif event == PORT_OPEN:
            port.set_open(bool(value))
        else:
            raise ChainError(f"a control message with event {event}, which drivers do not send")

    def _introduce(self, port: Port) -> None:
        if port.console:
            self._tell(port, CONSOLE_PORT)
        if port.name:
            self._tell(port, PORT_NAME, 1, port.name.encode())
        if port.backend.connected:
            self._tell(port, PORT_OPEN)
        self.tell_size(port)

    # State

    def pending(self, queue: Queue) -> int:
        """Every chain that a port has is taken again after a load."""
        return queue.in_flight

    def save_state(self) -> dict[str, Any]:
        """What console/persist.py lists."""
        return persist.save(self.ports, self._messages)

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore it; the driver is told who is connected to the host's ends now.

        Raises StateError; KeyError, TypeError or ValueError for values that are none.
        """
        self._messages = persist.load(self.name, self.ports, state)
        for port in self.ports if self.has(F_MULTIPORT) else ():
            if port.known:  # sent when the queues are run, at the start
                key = port.number, PORT_OPEN
                self._messages[key] = CONTROL.pack(*key, port.backend.connected)
