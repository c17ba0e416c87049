"""A GPIO expander: up to 64 lines with interrupts, and wires from line to line.

    pyvmm run --device examples/gpio_expander.py:GpioExpander,lines=16,wires=0:8+1:9

Linux drives it with gpio-virtio; see docs/guide/example-devices.md. A wire ``0:8`` carries what the
guest drives on line 0 to its input 8, so that a guest can test itself; other code in
this process moves an input with ``set_input``. Virtio 1.2, section 5.18; ``linux/virtio_gpio.h``.
"""

from __future__ import annotations

import struct

from pyvmm import DEFERRED, Chain, ChainError, Deferred, VirtioDevice
from pyvmm.virtio import ids

F_IRQ = 1 << 0
GET_NAMES, GET_DIRECTION, SET_DIRECTION, GET_VALUE, SET_VALUE, IRQ_TYPE = range(1, 7)
OK, ERROR = 0, 1
DIRECTION_NONE, DIRECTION_OUT, DIRECTION_IN = 0, 1, 2
IRQ_NONE, IRQ_RISING, IRQ_FALLING, IRQ_BOTH, IRQ_HIGH, IRQ_LOW = 0, 1, 2, 3, 4, 8
IRQ_INVALID, IRQ_VALID = 0, 1

REQUEST = struct.Struct("<HHI")  # type, line, value
EVENT = struct.Struct("<H")  # line
REQUESTS, EVENTS = 0, 1
MAX_LINES = 64


class Line:
    """One line: its direction, the levels driven from either side, its interrupt."""

    def __init__(self) -> None:
        self.input = 0
        self.reset()

    def reset(self) -> None:
        """The state after the driver's reset; the levels that the host drives are kept."""
        self.direction = DIRECTION_NONE
        self.output = 0
        self.irq_type = IRQ_NONE
        #: An edge that was not reported yet.
        self.latched = False
        #: The driver's buffer for the next interrupt.
        self.waiting: Chain | None = None

    @property
    def due(self) -> bool:
        """Whether an interrupt is to be reported to the driver now."""
        level = {IRQ_HIGH: 1, IRQ_LOW: 0}.get(self.irq_type)
        return self.latched if level is None else self.input == level


class GpioExpander(VirtioDevice):
    """The expander: requests on one queue, interrupts on the other."""

    device_id = ids.GPIO
    name = "gpio"
    features = F_IRQ
    feature_names = {F_IRQ: "IRQ"}
    queue_sizes = (64, 64)
    config_fields = {"ngpio": "u16", "padding": "bytes2", "gpio_names_size": "u32"}

    def __init__(self, lines: int = 16, wires: str = "") -> None:
        super().__init__()
        if not 1 <= lines <= MAX_LINES:
            raise ValueError(f"{lines} lines; 1 to {MAX_LINES} are possible")
        self.lines = [Line() for _ in range(lines)]
        self.wires: dict[int, int] = {}
        for wire in filter(None, wires.split("+")):
            source, _, target = wire.partition(":")
            if not (source.isdecimal() and target.isdecimal()) or max(int(source), int(target)) >= lines:
                raise ValueError(f"wire {wire!r}; write OUTPUT:INPUT, both below {lines}")
            self.wires[int(source)] = int(target)
        self.names = b"".join(f"line{number}".encode() + b"\0" for number in range(lines))
        self.config.ngpio = lines
        self.config.gpio_names_size = len(self.names)

    # From the guest

    def handle(self, queue: int, chain: Chain) -> Deferred | None:
        """A request, or a buffer for the next interrupt of a line."""
        if queue == EVENTS:
            return self._wait(chain)
        self._request(chain)
        return None

    def _request(self, chain: Chain) -> None:
        kind, number, value = REQUEST.unpack(chain.read(REQUEST.size))
        if kind == GET_NAMES:
            chain.write(bytes([OK]) + self.names)
            return
        answer = self._answer(kind, self.lines[number], value) if number < len(self.lines) else None
        chain.write(bytes([ERROR, 0] if answer is None else [OK, answer]))

    def _answer(self, kind: int, line: Line, value: int) -> int | None:
        """The value that answers a request for *line*; None refuses it."""
        if kind == GET_DIRECTION:
            return line.direction
        if kind == GET_VALUE:
            return line.output if line.direction == DIRECTION_OUT else line.input
        if kind == SET_DIRECTION and value in (DIRECTION_NONE, DIRECTION_OUT, DIRECTION_IN):
            line.direction = value
            self._drive(line)
        elif kind == SET_VALUE and value in (0, 1):
            line.output = value
            self._drive(line)
        elif kind == IRQ_TYPE and value in (IRQ_NONE, IRQ_RISING, IRQ_FALLING, IRQ_BOTH, IRQ_HIGH, IRQ_LOW):
            line.irq_type, line.latched = value, False
            if value == IRQ_NONE:
                self._complete(line, IRQ_INVALID)
        else:
            return None
        return 0

    def _wait(self, chain: Chain) -> Deferred | None:
        """Keep the buffer until its line has an interrupt."""
        (number,) = EVENT.unpack(chain.read(EVENT.size))
        if number >= len(self.lines) or self.lines[number].waiting is not None:
            raise ChainError(f"a buffer for line {number}, which is not there or has one already")
        line = self.lines[number]
        if line.irq_type == IRQ_NONE:
            chain.write(bytes([IRQ_INVALID]))
            return None
        line.waiting = chain
        self._interrupt(line)
        return DEFERRED

    # Driven by the host

    def set_input(self, number: int, level: int) -> None:
        """Drive line *number* from the host with *level*, 0 or 1. Any thread."""
        self.runtime.soon(lambda: self._set_input(self.lines[number], level))

    def _set_input(self, line: Line, level: int) -> None:
        if level == line.input:
            return
        line.input = level
        if line.irq_type == IRQ_BOTH or line.irq_type == (IRQ_RISING if level else IRQ_FALLING):
            line.latched = True
        self._interrupt(line)

    def _drive(self, line: Line) -> None:
        """Pass the level of *line* to the other end of its wire."""
        target = self.wires.get(self.lines.index(line))
        if target is not None and line.direction == DIRECTION_OUT:
            self._set_input(self.lines[target], line.output)

    def _interrupt(self, line: Line) -> None:
        if line.waiting is not None and line.due:
            line.latched = False
            self._complete(line, IRQ_VALID)

    def _complete(self, line: Line, status: int) -> None:
        chain, line.waiting = line.waiting, None
        if chain is not None:
            chain.write(bytes([status]))
            self.complete(EVENTS, chain)

    def stopped(self) -> None:
        """The driver has reset the device: the kept buffers are invalid now."""
        for line in self.lines:
            line.reset()

    def describe(self, queue: int, request: bytes) -> str:
        """For a trace."""
        if queue == EVENTS:
            return f"wait for line {int.from_bytes(request[:2], 'little')}"
        if len(request) < REQUEST.size:
            return ""
        kind, number, value = REQUEST.unpack_from(request)
        words = {GET_DIRECTION: "direction?", SET_DIRECTION: f"direction {value}", GET_VALUE: "value?"}
        words |= {SET_VALUE: f"value {value}", IRQ_TYPE: f"interrupt type {value}"}
        return "names?" if kind == GET_NAMES else f"line {number}: {words.get(kind, f'unknown type {kind}')}"
