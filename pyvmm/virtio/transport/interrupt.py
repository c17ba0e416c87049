"""InterruptStatus and InterruptACK (4.2.2) with the interrupt they speak of.

Causes are raised by the device's loop, read and acknowledged by vCPUs. Two things keep an interrupt from
costing a vCPU an exit:

- ``show``: the status is a word in a page that the guest reads by itself;
- ``listen``: KVM takes the usual acknowledgement, of used buffers alone, as an eventfd.

What comes as an eventfd is learnt of late. The status may then say "used buffers" for a moment longer than
the driver left it so, never shorter: an acknowledgement counts for a cause only if it surely came after it.
A driver that goes by the status, and not by the rings, acknowledges more often than it is interrupted; it
gets its exits back, and so does one that did not negotiate event indices.
"""

from __future__ import annotations

import os
from _thread import allocate_lock

from pyvmm.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.board.device import Line
    from pyvmm.loop import Loop

# InterruptStatus
USED_BUFFER = 1
CONFIG_CHANGE = 2

#: Seconds after a cause in which acknowledgements are left where KVM counts them.
SETTLE = 0.05
#: Acknowledgements above twice the interrupts of that time that a driver with a shared line may make.
SPURIOUS = 8

# What follows from the next acknowledgement: nothing yet; a look when SETTLE is over; at once.
_QUIET, _WAITING, _ARMED = range(3)


class Interrupt:
    """The causes of one device's interrupt; every cause pulses *line* once."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._lock = allocate_lock()  # held for moments, and no other is taken meanwhile but the loop's
        self._hearing = allocate_lock()  # what KVM was told; no other is taken meanwhile
        self._status = 0
        self._always = 0
        self._word: memoryview | None = None
        #: Since the driver's last read, or since the last look: causes in all, and whether there was one.
        self._raised = 0
        self._fresh = False
        self._acks = -1
        self._listening = False
        self._state = _QUIET
        self._loop: Loop
        self._assign: Callable[[bool], object]

    # For the transport

    def raise_(self, cause: int) -> None:
        """Interrupt the driver for *cause*."""
        with self._lock:
            self._fresh = True
            self._raised += 1
            if not self._status & cause:
                self._status |= cause
                self._publish()
            settle = (
                cause & USED_BUFFER
                and self._state == _QUIET
                and self._listening
                and self._word is not None
                and not self._always
            )
            if settle:
                self._state = _WAITING
        self.line.pulse()
        if settle:
            self._loop.call_later(SETTLE, self._settle)

    def read(self) -> int:
        """The status, by an exit."""
        with self._lock:
            if self._listening and self._word is None and self._drain() and not self._fresh:
                self._status &= ~USED_BUFFER
            self._fresh = False
            return self._status | self._always

    def acknowledge(self, causes: int) -> None:
        """The driver has handled *causes*, by an exit."""
        with self._lock:
            self._status &= ~causes
            self._publish()

    def always(self, causes: int) -> None:
        """Add *causes* to whatever the status is: of interrupts that do not come through here."""
        with self._lock:
            self._always = causes
            self._publish()

    def started(self, exact: bool) -> None:
        """The driver is ready; an *exact* one has its acknowledgements carried out before it goes on."""
        if exact:
            self._hear(False)

    def reset(self) -> None:
        """Nothing has happened."""
        self._hear(True)
        with self._lock:
            self._status = self._always = self._raised = 0
            self._fresh = False
            self._publish()

    @property
    def status(self) -> int:
        """The causes not acknowledged; setting them interrupts nobody."""
        with self._lock:
            return self._status

    @status.setter
    def status(self, value: int) -> None:
        with self._lock:
            self._status = value
            self._publish()

    # For whoever places the device

    def show(self, word: memoryview) -> None:
        """Keep the status in *word*, one number of 32 bits that the guest reads."""
        with self._lock:
            self._word = word
            self._publish()

    def listen(self, acks: int, loop: Loop, assign: Callable[[bool], object]) -> None:
        """Have acknowledgements of used buffers counted by the eventfd *acks*.

        *assign* tells KVM to do so, or with False to make exits of them again. *loop* is the device's.
        """
        self._acks, self._loop, self._assign = acks, loop, assign
        self._hear(True)

    def close(self) -> None:
        """The eventfd is about to be closed. Idempotent."""
        with self._lock:
            acks, self._acks = self._acks, -1
            self._listening = False
            if acks >= 0:
                self._loop.remove(acks)

    # Inside

    def _publish(self) -> None:
        if self._word is not None:
            self._word[0] = self._status | self._always

    def _drain(self) -> int:
        try:
            return os.eventfd_read(self._acks)
        except BlockingIOError:
            return 0

    def _hear(self, listening: bool) -> None:
        with self._hearing:
            if self._acks >= 0 and listening != self._listening:
                self._assign(listening)
                self._listening = listening

    def _settle(self) -> None:
        """Acknowledgements so far may be older than the last cause; the next one is not."""
        with self._lock:
            if self._acks < 0:
                return
            acknowledged, raised = self._drain(), self._raised
            self._raised = 0
            self._fresh = False
            self._state = _ARMED
            self._loop.add(self._acks, READ, self._acknowledged)
        if acknowledged > 2 * raised + SPURIOUS:
            self._hear(False)

    def _acknowledged(self, _: int) -> None:
        with self._lock:
            if self._acks < 0:
                return
            self._loop.remove(self._acks)
            self._drain()
            again = self._fresh
            self._state = _WAITING if again else _QUIET
            if not again:
                self._status &= ~USED_BUFFER
                self._publish()
        if again:
            self._loop.call_later(SETTLE, self._settle)
