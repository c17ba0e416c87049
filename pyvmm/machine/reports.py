"""From the guest's report of its end, its console or a device's failure to the machine's ending."""

from __future__ import annotations

from pyvmm.arch.events import Events
from pyvmm.errors import GuestError, PyvmmError
from pyvmm.machine.console_log import ConsoleLog
from pyvmm.machine.ending import (
    CRASHED,
    DEVICE_FAILED,
    HALTED,
    INFERRED,
    OK,
    TOLD,
    UNSUPPORTED,
    WATCHDOG,
    Ending,
    debug_exit,
)
from pyvmm.pykvm.const import KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from pyvmm.machine.clock import MachineClock

    class End(Protocol):
        """Ends the machine."""

        def __call__(self, ending: Ending, error: BaseException | None = None) -> None:
            """The first ending counts."""


#: Seconds of the machine's time that a panicked guest gets to reboot by itself (``panic=-1`` does at once).
PANIC_GRACE = 2.0


class GuestReports:
    """Ends the machine as its guest reports. Called by any vCPU's thread and the loop's.

    :param end: ends the machine; the first ending counts
    :param drain: carries out queued port writes: the guest's last output may be a panic
    """

    def __init__(self, clock: MachineClock, end: End, drain: Callable[[], object]) -> None:
        self._clock = clock
        self._end = end
        self._drain = drain
        self._panic: str | None = None
        #: Gets what the guest prints.
        self.log = ConsoleLog(self._panicked)

    def events(self) -> Events:
        """The callbacks for the platform's devices."""
        return Events(self._poweroff, self._reset, self._debug_exit, self._watchdog)

    def system_event(self, kind: int) -> bool:
        """KVM_EXIT_SYSTEM_EVENT of type *kind* (KVM_SYSTEM_EVENT_*): False when that ends the machine."""
        if kind == KVM_SYSTEM_EVENT_SHUTDOWN:
            self._poweroff()
        elif kind == KVM_SYSTEM_EVENT_RESET:
            self._reset("PSCI SYSTEM_RESET")
        elif kind == KVM_SYSTEM_EVENT_CRASH:
            self._ended(Ending(CRASHED, "panic", TOLD, "the guest told its firmware that it crashed"))
        else:
            return True
        return False

    def device_failed(self, name: str, error: Exception) -> None:
        """Device *name* raised *error*: a GuestError refuses the guest, anything else is a failure."""
        if isinstance(error, GuestError):
            self._end(Ending(UNSUPPORTED, "unsupported", TOLD, str(error)))
            return
        what = f" failed: {error}"
        if not isinstance(error, PyvmmError):  # a defect of the device: the message names the line
            from pyvmm.host import exceptions

            what = f" failed in {exceptions.raised_at(error)}: {exceptions.describe(error)}"
        self._end(Ending(DEVICE_FAILED, "device", TOLD, name + what), error)

    def halted(self) -> None:
        """No vCPU can run again."""
        detail = "no vCPU can run again: each is off, or halted with interrupts masked"
        self._ended(Ending(HALTED, "halt", INFERRED, detail))

    def _poweroff(self) -> None:
        self._ended(Ending(OK, "poweroff", TOLD, "the guest powered off"))

    def _reset(self, how: str) -> None:
        self._ended(Ending(OK, "reboot", TOLD, f"the guest asked for a reset ({how})"))

    def _watchdog(self) -> None:
        self._ended(Ending(WATCHDOG, "watchdog", TOLD, "the guest did not feed its watchdog in time"))

    def _debug_exit(self, value: int) -> None:
        self._end(debug_exit(value))

    def _ended(self, ending: Ending) -> None:
        self._drain()  # its last output may tell of a panic
        self._end(ending if self._panic is None else self._panic_ending())

    def _panicked(self, line: str) -> None:
        self._panic = line
        self._clock.call_later(PANIC_GRACE, lambda: self._end(self._panic_ending()))

    def _panic_ending(self) -> Ending:
        return Ending(CRASHED, "panic", INFERRED, f"the guest's console says: {self._panic}")
