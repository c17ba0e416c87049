"""A serial port with everything around it played by the test."""

from __future__ import annotations

from pyvmm.board.device import Line
from pyvmm.devices.serial import LSR, MSR, Serial16550A
from pyvmm.devices.uart import POLLS

NO_INT, THRI, RDI, RLSI, TIMEOUT, MSI = 0x01, 0x02, 0x04, 0x06, 0x0C, 0x00
FIFO = 0xC0  # IIR while the FIFOs are on
IDLE = 0x60  # LSR: THRE, TEMT
LOOPBACK = 0x10


class Wire(Line):
    """Keeps every level it was driven to."""

    def __init__(self):
        self.changes = []

    def set(self, level):
        self.changes.append(level)

    @property
    def level(self):
        return bool(self.changes) and self.changes[-1]


class Host:
    """A backend that is told when it is full, and what the user types."""

    def __init__(self):
        self.ready = True
        self.on_ready = None
        self.on_break = None
        self.sent = b""
        self.resumed = 0
        self.sent_back = b""

    def attach(self, loop, receive, space):
        self.receive, self.space = receive, space

    def write(self, data):
        self.sent += data

    def resume(self):
        self.resumed += 1

    def unread(self, data):
        self.sent_back += data

    def type(self, data):
        self.receive(data[: self.space()])

    def become_full(self):
        self.ready = False

    def drain(self):
        self.ready = True
        self.on_ready()


class Timers:
    """A loop's ``call_later`` and nothing else; ``expire`` plays the clock."""

    def __init__(self):
        self.calls = []

    def call_later(self, seconds, function):
        timers = self

        class Timer:
            def cancel(self):
                timers.calls.remove(function)

        self.calls.append(function)
        return Timer()

    def expire(self):
        calls, self.calls = self.calls, []
        for function in calls:
            function()


class Port(Serial16550A):
    """A port with short accessors and everything around it at hand, of a guest that polls for input."""

    def __init__(self, connected=True):
        self.wire, self.host, self.timers = Wire(), Host(), Timers()
        super().__init__(self.timers, self.wire)
        if connected:
            self.connect(self.host)
            self[MSR]  # the carrier's coming up is told
            self.listen()

    def listen(self):
        """Poll for input until it may come."""
        self.host.space()
        for _ in range(POLLS):
            self[LSR]
        self.host.resumed = 0

    def __getitem__(self, offset):
        return self.read(offset, 1)

    def __setitem__(self, offset, value):
        self.write(offset, 1, value)
