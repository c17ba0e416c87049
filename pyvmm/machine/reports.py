"""From the guest's report of its end, signs of a panic or a device's failure to the machine's ending.

What is believed is in docs/internals/endings.md.
"""

from __future__ import annotations

from _thread import allocate_lock

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
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.pykvm import Vcpu

    class End(Protocol):
        """Ends the machine."""

        def __call__(self, ending: Ending, error: BaseException | None = None) -> None:
            """The first ending counts."""

    class Vcpus(Protocol):
        """The machine, as far as its vCPUs and memory are concerned."""

        memory: GuestMemory

        def here(self) -> Vcpu | None:
            """The vCPU whose thread calls."""

        def ask(self, question: Callable[[Vcpu], object], answered: Callable[[], object]) -> None:
            """Make every vCPU leave KVM_RUN and call *question* in its thread; *answered* when all have."""


#: Seconds of silence on every console after which a kernel that told of its panic is taken to do no more.
SILENCE = 10.0
#: Seconds between two searches for the last line of a panic.
SEARCH_PAUSE = 1.0


class GuestReports:
    """Ends the machine as its guest reports. Called by any vCPU's thread and the loop's.

    :param end: ends the machine; the first ending counts
    :param drain: carries out queued port writes: the guest's last output
    """

    def __init__(self, clock: MachineClock, end: End, drain: Callable[[], object]) -> None:
        self._clock = clock
        self._end = end
        self._drain = drain
        self._panicked = False  # the kernel has told so
        self._printed = 0  # bytes on the consoles when that was looked at last
        self._searched = allocate_lock()  # held while guest memory is searched
        self._search_due = False  # a search was asked for, and SEARCH_PAUSE is not over
        self._search_again = False  # another one did meanwhile
        #: Set before the start.
        self.vcpus: Vcpus
        #: Gets what the guest prints.
        self.log = ConsoleLog(self._panic_ends)

    def events(self) -> Events:
        """The callbacks for the platform's devices."""
        return Events(
            self._poweroff, self._reset, self._debug_exit, self._watchdog, self._told_of_panic, self._drain
        )

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
            what += exceptions.advice(error)
        self._end(Ending(DEVICE_FAILED, "device", TOLD, name + what), error)

    def halted(self) -> None:
        """No vCPU can run again."""
        detail = "no vCPU can run again: each is off, or halted with interrupts masked"
        self._ended(Ending(HALTED, "halt", INFERRED, detail))

    def spins(self) -> None:
        """A vCPU stays at one place of the kernel, as after a panic: look for the record of its last line."""
        if not self._panicked:  # else the silence of its consoles ends it
            self._search_soon()

    def _poweroff(self) -> None:
        self._ended(Ending(OK, "poweroff", TOLD, "the guest powered off"))

    def _reset(self, how: str) -> None:
        with self._searched:
            line = self._panic_line(self.vcpus.here())
        if line and not self._panicked:
            self._log_says(line)
            return
        self._ended(Ending(OK, "reboot", TOLD, f"the guest asked for a reset ({how})"), line)

    def _watchdog(self) -> None:
        self._ended(Ending(WATCHDOG, "watchdog", TOLD, "the guest did not feed its watchdog in time"))

    def _debug_exit(self, value: int) -> None:
        self._end(debug_exit(value))

    def _ended(self, ending: Ending, line: str = "") -> None:
        """End the machine; by a panic when the kernel has told of one, whose *line* may be known."""
        self._drain()
        self._end(self._panic_ending(line) if self._panicked else ending)

    # Panics

    def _told_of_panic(self, crash_kernel: bool) -> None:
        """The kernel wrote to its pvpanic device that it has panicked; perhaps a crash kernel goes on."""
        self._panicked = True
        if not crash_kernel:  # which may be silent for long
            self._printed = -1
            self._look_for_silence()

    def _look_for_silence(self) -> None:
        if self._printed == self.log.size:
            self._ended(self._panic_ending(""))
            return
        self._printed = self.log.size
        self._clock.call_later(SILENCE, self._look_for_silence)

    def _panic_ends(self) -> None:
        """A console shows what the kernel prints last when it has panicked and is to stay."""
        if self._panicked:
            self._clock.call_later(0, lambda: self._ended(self._panic_ending("")))
        else:
            self._search_soon()

    def _search_soon(self) -> None:
        if self._search_due:
            self._search_again = True
        else:
            self._search_due = True
            self._clock.call_later(0, self._search)

    def _search(self) -> None:
        """Have the vCPUs look for the record of that line. Loop's thread."""
        found = False

        def question(vcpu: Vcpu) -> None:
            nonlocal found
            from pyvmm.machine.kernel_log import END

            with self._searched:
                if found:
                    return
                line = self._panic_line(vcpu, END)
                found = bool(line)
            if line:
                self._log_says(line)

        self._search_again = False
        self.vcpus.ask(question, lambda: self._clock.call_later(SEARCH_PAUSE, self._searched_before))

    def _log_says(self, line: str) -> None:
        """End the machine by the panic whose *line* was found in guest memory."""
        self._drain()
        self._end(Ending(CRASHED, "panic", INFERRED, f"the log of the guest's kernel says: {line}"))

    def _searched_before(self) -> None:
        if self._search_again:
            self._search()
        else:
            self._search_due = False

    def _panic_line(self, vcpu: Vcpu | None, text: bytes = b"") -> str:
        from pyvmm.arch import native
        from pyvmm.machine.kernel_log import PANIC, find_panic

        memory, state = self.vcpus.memory, native.vcpu_state()
        code = None if vcpu is None else state.code_address(vcpu, memory)
        data = () if vcpu is None else state.kernel_data(vcpu, memory)
        return find_panic(memory, code, text or PANIC, data)

    def _panic_ending(self, line: str) -> Ending:
        said = line or self._console_line()
        detail = "the guest's kernel told of its panic" + (f": {said}" if said else "")
        return Ending(CRASHED, "panic", TOLD, detail)

    def _console_line(self) -> str:
        """The panic's line as a console showed it."""
        from pyvmm.host.printable import printable
        from pyvmm.machine.console_log import PANIC

        text = self.log.text()
        at = text.rfind(PANIC.decode())
        return printable(text[at:].split("\n", 1)[0].rstrip("\r"), 300) if at >= 0 else ""
