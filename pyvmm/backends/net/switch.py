"""A learning switch that joins guests of one process. A frame is copied once, from guest to guest, whole:
64 KiB segments stay what they are, their checksums undone.

The sender's thread does the copying, and the receiver's lock is the last one taken: so two guests can
send to each other at once, and a guest that receives nothing delays no other. What it has no room for is
kept, up to a bound.
"""

from __future__ import annotations

from _thread import allocate_lock

from pyvmm.backends.net.base import ALL_OFFLOADS, HEADER, NetBackend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.net.base import FrameSink

#: Addresses kept of each port: one that floods the table with made-up ones displaces its own.
ADDRESSES = 256
_MULTICAST = 1


class Switch:
    """Joins ports. A frame goes to the port its address was last seen at, else to all others."""

    def __init__(self, name: str = "switch") -> None:
        self.name = name
        self._ports: tuple[SwitchPort, ...] = ()
        self._table: dict[bytes, SwitchPort] = {}
        self._lock = allocate_lock()
        self._count = 0

    def port(self, pairs: int = 1) -> SwitchPort:
        """A new port, with *pairs* queues: the backend of one network device. Any thread."""
        with self._lock:
            self._count += 1
            port = SwitchPort(self, self._count, pairs)
            self._ports = (*self._ports, port)
        return port

    def forward(self, port: SwitchPort, source: bytes, destination: bytes) -> tuple[SwitchPort, ...]:
        """Learn that *source* is at *port*; returns where a frame from there to *destination* goes."""
        if self._table.get(source) is not port and not source[0] & _MULTICAST:
            self._learn(port, source)
        if not destination[0] & _MULTICAST:
            target = self._table.get(destination)
            if target is not None:
                return (target,) if target is not port else ()
        return tuple(other for other in self._ports if other is not port)

    def remove(self, port: SwitchPort) -> None:
        """Forget *port* and its addresses. Any thread."""
        with self._lock:
            self._ports = tuple(other for other in self._ports if other is not port)
            for address in port.addresses:
                self._table.pop(address, None)
            port.addresses.clear()

    def _learn(self, port: SwitchPort, address: bytes) -> None:
        with self._lock:
            if port not in self._ports:
                return
            before = self._table.get(address)
            if before is not None:
                before.addresses.pop(address, None)
            if len(port.addresses) >= ADDRESSES:
                oldest = next(iter(port.addresses))
                del port.addresses[oldest], self._table[oldest]
            port.addresses[address] = None
            self._table[address] = port


class SwitchPort(NetBackend):
    """One port of *switch*; made by ``Switch.port``.

    :param number: which of its ports it is, counted from 1 in the order they were made
    """

    offloads = ALL_OFFLOADS
    foreign = True

    def __init__(self, switch: Switch, number: int, pairs: int) -> None:
        super().__init__()
        self.switch = switch
        self.number = number
        self.pairs = pairs
        #: The addresses seen here, the oldest first.
        self.addresses: dict[bytes, None] = {}
        self._touched: list[FrameSink] = []

    @property
    def identity(self) -> str:
        """Switch and port."""
        return f"{self.switch.name} {self.number}"

    def send(self, pair: int, views: list[memoryview]) -> None:
        """Copy one frame into the guests it is for."""
        first = views[0]
        if first.nbytes >= HEADER + 12:
            head = bytes(first[: HEADER + 12])
            frame = [first[HEADER:], *views[1:]]
        else:  # a driver that lays its header apart from the frame, or anyhow
            whole = b"".join(views)
            head, frame = whole[: HEADER + 12], [memoryview(whole)[HEADER:]]
        size = sum(map(len, frame))
        targets = self.switch.forward(self, head[HEADER + 6 :], head[HEADER : HEADER + 6])
        header, touched = head[:HEADER], self._touched
        for target in targets:
            sink = target.sink
            if sink is not None:
                sink.deliver(pair, header, frame, size)
                if sink not in touched:
                    touched.append(sink)

    def flush(self) -> None:
        """Tell the receivers."""
        if self._touched:
            touched, self._touched = self._touched, []
            for sink in touched:
                sink.flush()

    def describe(self) -> str:
        """The switch and the port's number."""
        return f"port {self.number} of switch {self.switch.name}"

    def close(self) -> None:
        """Remove the port from the switch."""
        self.switch.remove(self)


_named: dict[str, Switch] = {}


def named_switch(name: str) -> Switch:
    """The switch of this process that is called *name*; made when it is first asked for."""
    return _named.setdefault(name, Switch(name))
