"""What serial ports have in common: a backend on the host, observers, one lock, one interrupt.

A byte goes to the backend as it is written; transmission takes no time. Input waits in the
backend until the port asks for it.
"""

from __future__ import annotations

from _thread import allocate_lock

from pyvmm.board.device import Device, Level, Line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from pyvmm.loop import Loop

    class Backend(Protocol):
        """The part of ``backends.base.CharBackend`` that serial ports use."""

        ready: bool
        on_ready: Callable[[], object] | None
        on_break: Callable[[], object] | None

        def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
            """Begin to give input."""

        def write(self, data: bytes) -> None:
            """Send without blocking."""

        def resume(self) -> None:
            """Give input again."""


#: Flag of an entry in a receiver: the byte is a break condition.
BREAK = 0x100


class Uart(Device):
    """A serial port's host side. A subclass has the registers, the receiver and the transmitter.

    One lock covers the state: vCPU threads call ``read`` and ``write``, the loop's thread delivers input and
    reports room. The line is set under the lock, so that its levels keep their order.
    """

    _rx: list[int]  # bytes; BREAK is set for a break
    _capacity: int  # of the receiver: with or without FIFO

    def __init__(self, loop: Loop, line: Line | None = None) -> None:
        self._loop = loop
        self._line = Level(line)
        self._backend: Backend | None = None
        self._taps: tuple[Callable[[bytes], object], ...] = ()
        self._lock = allocate_lock()
        self._starved = False
        #: Received bytes lost: in loopback mode with the receiver full.
        self.overruns = 0

    def connect(self, backend: Backend) -> None:
        """Connect *backend*, and set the modem inputs by it. Raises what its ``attach`` raises.

        Called once, in the loop's thread or before the loop runs.
        """
        backend.on_ready = self._on_ready
        backend.on_break = self._on_break
        self._backend = backend
        with self._lock:
            self._set_modem_inputs()
            self._update()
        backend.attach(self._loop, self._receive, self._space)

    def tap(self, observer: Callable[[bytes], object]) -> None:
        """Also give ``observer(data)`` what the guest sends; it runs in the vCPU's thread and must be quick.

        It must not call this device.
        """
        self._taps = (*self._taps, observer)

    def reset(self) -> None:
        """As after power-on."""
        with self._lock:
            self._power_on()
            self._update()
        self._feed()

    # Implemented by a subclass; called under the lock

    def _power_on(self) -> None:
        """All registers as after power-on, the receiver empty."""
        raise NotImplementedError

    def _loopback(self) -> bool:
        """Whether the receiver gets the transmitter's output instead of the host's input."""
        raise NotImplementedError

    def _interrupting(self) -> bool:
        """Whether an enabled interrupt is pending."""
        raise NotImplementedError

    def _push(self, entry: int) -> None:
        """Put one character, with or without BREAK, into the receiver."""
        raise NotImplementedError

    def _set_modem_inputs(self) -> None:
        """Set the modem inputs, after the backend or the loopback mode changed."""
        raise NotImplementedError

    def _set_transmitter(self) -> None:
        """Set the transmitter's state, after the backend's room changed."""
        raise NotImplementedError

    # Called by a subclass

    def _update(self) -> None:
        self._line.set(self._interrupting())

    def _feed(self) -> None:
        """Ask the backend for pending input, once half the receiver is free. Takes the lock."""
        if not self._starved or self._backend is None:
            return
        with self._lock:
            if self._loopback() or len(self._rx) > self._capacity // 2:
                return
            self._starved = False
        self._backend.resume()

    # The backend's callbacks, in the loop's thread; each takes the lock.

    def _space(self) -> int:
        with self._lock:
            # In loopback mode the receiver is disconnected from its input.
            room = 0 if self._loopback() else self._capacity - len(self._rx)
            self._starved = room <= 0
            return room

    def _receive(self, data: bytes) -> None:
        with self._lock:
            for value in data:
                self._push(value)
            self._update()

    def _on_ready(self) -> None:
        with self._lock:
            self._set_transmitter()
            self._update()

    def _on_break(self) -> None:
        with self._lock:
            self._push(BREAK)
            self._update()
