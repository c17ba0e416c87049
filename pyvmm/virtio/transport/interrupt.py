"""InterruptStatus and InterruptACK (4.2.2), and the interrupt line.

The device's loop raises causes; vCPUs read and acknowledge them. Two things keep an interrupt from costing a
vCPU an exit:

- ``mirror_status``: the status is in a page that the guest reads without an exit;
- ``assign_ioeventfd``: KVM signals an eventfd for the usual acknowledgement, of used buffers alone.

An acknowledgement by eventfd is learnt late. The status may then have "used buffer" set for longer than the
driver left it so, never shorter: an acknowledgement clears a cause only if it surely came after it. A driver
that polls the status instead of the rings acknowledges more often than it is interrupted; its
acknowledgements become exits again, and so do those of a driver that did not negotiate EVENT_IDX.
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

#: Seconds after a cause in which the eventfd only counts acknowledgements.
SETTLE = 0.05
#: Acknowledgements above twice the interrupts of that time that a driver with a shared line may make.
SPURIOUS = 8

# No cause is set; one was raised less than SETTLE ago; the next acknowledgement clears it.
_QUIET, _SETTLING, _ARMED = range(3)


class Interrupt:
    """The causes of one device's interrupt; every cause pulses *line* once."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._lock = allocate_lock()  # innermost, but for the loop's own
        self._assigning = allocate_lock()  # whether KVM has the ioeventfd; innermost
        self._status = 0
        self._always = 0
        self._mirrored: memoryview | None = None
        # Causes since the eventfd was last read; whether there was one since the driver last read the status.
        self._raised = 0
        self._fresh = False
        self._acks = -1
        self._assigned = False
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
                and self._assigned
                and self._mirrored is not None
                and not self._always
            )
            if settle:
                self._state = _SETTLING
        self.line.pulse()
        if settle:
            self._loop.call_later(SETTLE, self._settle)

    def read(self) -> int:
        """The status, by an exit."""
        with self._lock:
            if self._assigned and self._mirrored is None and self._drain() and not self._fresh:
                self._status &= ~USED_BUFFER
            self._fresh = False
            return self._status | self._always

    def acknowledge(self, causes: int) -> None:
        """The driver acknowledges *causes*, by an exit."""
        with self._lock:
            self._status &= ~causes
            self._publish()

    def always(self, causes: int) -> None:
        """Set *causes* in every read of the status: those of interrupts that do not come through here."""
        with self._lock:
            self._always = causes
            self._publish()

    def started(self, exact: bool) -> None:
        """The driver is ready; with *exact* each of its acknowledgements takes effect before it goes on."""
        if exact:
            self._assign_or_not(False)

    def reset(self) -> None:
        """As after power-on."""
        self._assign_or_not(True)
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

    def mirror_status(self, number: memoryview) -> None:
        """Keep the status in *number*[0], 32 bits that the guest reads without an exit."""
        with self._lock:
            self._mirrored = number
            self._publish()

    def assign_ioeventfd(self, acks: int, loop: Loop, assign: Callable[[bool], object]) -> None:
        """Have KVM signal the eventfd *acks* for each acknowledgement of used buffers alone.

        ``assign(True)`` assigns the ioeventfd, ``assign(False)`` takes it away. *loop* is the device's.
        """
        self._acks, self._loop, self._assign = acks, loop, assign
        self._assign_or_not(True)

    def close(self) -> None:
        """The eventfd is about to be closed. Idempotent."""
        with self._lock:
            acks, self._acks = self._acks, -1
            self._assigned = False
            if acks >= 0:
                self._loop.remove(acks)

    # Inside

    def _publish(self) -> None:
        if self._mirrored is not None:
            self._mirrored[0] = self._status | self._always

    def _drain(self) -> int:
        try:
            return os.eventfd_read(self._acks)
        except BlockingIOError:
            return 0

    def _assign_or_not(self, wanted: bool) -> None:
        with self._assigning:
            if self._acks >= 0 and wanted != self._assigned:
                self._assign(wanted)
                self._assigned = wanted

    def _settle(self) -> None:
        """Acknowledgements so far may be older than the last cause; from now on one is not."""
        with self._lock:
            if self._acks < 0:
                return
            acknowledged, raised = self._drain(), self._raised
            self._raised = 0
            self._fresh = False
            self._state = _ARMED
            self._loop.add(self._acks, READ, self._acknowledged)
        if acknowledged > 2 * raised + SPURIOUS:
            self._assign_or_not(False)

    def _acknowledged(self, _: int) -> None:
        with self._lock:
            if self._acks < 0:
                return
            self._loop.remove(self._acks)
            self._drain()
            again = self._fresh
            self._state = _SETTLING if again else _QUIET
            if not again:
                self._status &= ~USED_BUFFER
                self._publish()
        if again:
            self._loop.call_later(SETTLE, self._settle)
