"""What serial ports have in common: a backend on the host, observers, one lock, one interrupt.

A byte goes to the backend as it is written; transmission takes no time. Input waits in the
backend until the port asks for it.

The host's input is there from the start on, before a driver of the guest's has opened the port: drivers clear
and read the receiver while they look for a port and set it up. So nothing is received until the guest
*listens*: it has enabled the receive interrupt, or it polls for input. What it clears nevertheless, before it
has read anything or while the interrupt is disabled, is received again.
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

        def unread(self, data: bytes) -> None:
            """Take back input that the guest did not read."""


#: Flag of an entry in a receiver: the byte is a break condition.
BREAK = 0x100
#: Reads of the status in a row, with the transmitter empty and nothing written in between, that are a poll
#: for input. Drivers that transmit read it a few times a byte.
POLLS = 32


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
        self._closed = False
        self._listening = False
        #: Input waits for a guest that does not listen yet.
        self._held = False
        self._polls = 0
        self._polling = False  # it listens because it polls
        self._unread = True  # since it listens, the guest has read nothing
        self._looped = False  # the receiver has what was sent in loopback mode
        self._returned: list[int] = []  # cleared unread, to be received again
        #: Carries out writes that are queued: what was written lately must be known before polls are counted.
        self.drain: Callable[[], object] | None = None
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

    def close(self) -> None:
        """Take no more input: it is the next machine's, where one follows, and so is what was not read."""
        if self._closed:
            return
        with self._lock:
            self._closed = True
            left = [*([] if self._looped else self._rx), *self._returned]
        if left and self._backend is not None:
            self._backend.unread(bytes(entry & 0xFF for entry in left if not entry & BREAK))

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

    def _hold(self) -> None:
        """``_held`` has become true: polls for input are to be counted by ``_count_poll``."""

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
            if not self._listening or self._loopback() or len(self._rx) > self._capacity // 2:
                return
            if self._returned:
                self._receive_again()
                if self._returned:
                    return
            self._starved = False
        self._backend.resume()

    def _count_poll(self) -> None:
        """The guest looked for input and found none, as ``_held`` is true. Takes the lock."""
        self._polls += 1
        if self._polls < POLLS:
            return
        if self.drain is not None:
            self.drain()  # what was printed meanwhile begins the count anew
        with self._lock:
            if self._held and self._polls >= POLLS:
                self._polling = True
                self._listen()
        self._feed()

    # Called by a subclass under the lock

    def _listen(self) -> None:
        """The guest listens from now on."""
        if not self._listening:
            self._listening, self._held, self._unread = True, False, True
            self._starved = True

    def _was_read(self) -> None:
        """The guest has read a byte that it received."""
        self._unread = False
        if not self._rx:
            self._looped = False

    def _clear_receiver(self, is_open: bool) -> None:
        """Empty it. What the guest has not had a chance to read comes again.

        :param is_open: the receive interrupt is enabled; else a guest that does not poll is opening or
            closing the port, and does not listen any more
        """
        is_open = is_open or self._polling
        if self._rx and not self._looped and (self._unread or not is_open):
            self._returned[:0] = self._rx
            self._starved = True
        if not is_open:
            self._listening = False
        self._looped = False
        self._rx.clear()

    def _receive_again(self) -> None:
        room = self._capacity - len(self._rx)
        again, self._returned = self._returned[:room], self._returned[room:]
        for entry in again:
            self._push(entry)
        self._update()

    def _load_returned(self, state: dict[str, object]) -> None:
        returned = state.get("returned", [])
        if not isinstance(returned, list):
            raise TypeError("the saved state of a serial port has fields of the wrong type")
        self._returned = [int(entry) & (BREAK | 0xFF) for entry in returned]
        self._starved = self._starved or bool(self._returned)

    def _forget(self) -> None:
        """As after power-on: nobody listens."""
        self._listening, self._unread, self._looped = False, True, False
        self._polls = 0
        self._polling = False
        self._returned = []

    # The backend's callbacks, in the loop's thread; each takes the lock.

    def _space(self) -> int:
        with self._lock:
            room = self._capacity - len(self._rx) if self._is_open() else 0
            self._starved = room <= 0
            if not self._listening and not self._held:
                self._held = True
                self._hold()
            return room

    def _receive(self, data: bytes) -> bool:
        with self._lock:
            # Since ``space`` was called, the guest may have closed the port or sent to itself.
            if not self._is_open() or len(self._rx) + len(data) > self._capacity:
                self._starved = True
                return False
            for value in data:
                self._push(value)
            self._update()
            return True

    def _is_open(self) -> bool:
        # In loopback mode the receiver is disconnected from its input.
        return self._listening and not (self._loopback() or self._closed or self._returned)

    def _on_ready(self) -> None:
        with self._lock:
            self._set_transmitter()
            self._update()

    def _on_break(self) -> None:
        with self._lock:
            self._push(BREAK)
            self._update()
