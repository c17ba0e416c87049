"""A machine in a VM process, as the program that drives its guest sees it."""

from __future__ import annotations

import os
from importlib import import_module
from threading import Condition

from pyvmm.errors import PyvmmError, StartError
from pyvmm.guest import vm_messages as messages
from pyvmm.host.printable import printable
from pyvmm.host.rate_limit import RateLimit, with_suppressed
from pyvmm.host.report import logger
from pyvmm.machine.ending import FATAL, STOPPED, TOLD, UNKNOWN, Ending
from pyvmm.machine.loop_run import LoopRun
from pyvmm.sandbox.link import MessageLink, pair
from pyvmm.signals import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.guest.spawned_parent import SpawnedParent
    from pyvmm.loop import Loop, Timer
    from pyvmm.machine.console_log import ConsoleLog

#: Seconds that a machine gets to end once somebody has asked for it; then its process is killed.
GRACE = 5.0
#: Seconds that PAUSE, RESUME and LOG may take.
_PATIENCE = 10.0
_LOG_PATIENCE = 1.0
_REPORT_LENGTH = 1000
_LOG_MAX = 1 << 20
#: Those of ``logging``, from DEBUG to CRITICAL.
_LEVELS = ("10", "20", "30", "40", "50")

#: A VM process limits its reports itself, unless its guest has taken it over.
_reports = RateLimit(burst=200, period=0.1)


class VmMachine:
    """The machine that *parent* makes; its VM process waits for ``start`` then.

    :param stream: the VM process's end of the channel for commands; -1: there is none
    :param left: seconds that the guest has left; None: it has no limit
    :param serial: what its serial console has shown

    Raises what the machine's build raises there: ConfigError, StartError.
    """

    def __init__(
        self, parent: SpawnedParent, loop: Loop, stream: int, left: float | None, serial: ConsoleLog
    ) -> None:
        #: How it ended; None while it runs.
        self.ending: Ending | None = None
        #: Whether it is paused.
        self.paused = False
        self.log = _Log(self)
        self._parent = parent
        self._loop = loop
        self._serial = serial
        self._changed = Condition()
        self._done = 0  # requests that were carried out
        self._asked = 0
        self._logged = bytearray()  # the answer to LOG so far
        self._text = ""
        self._logs = 0  # how often it was answered
        self._loop_run = LoopRun(loop, self._loop_failed)
        self._started = False
        self._stopping: tuple[str, str] | None = None
        self._killer: Timer | None = None
        self._left = left
        self._due = 0.0  # when it is killed, pauses not counted
        self._watchdog: Timer | None = None
        self._held = 0.0  # seconds that it was paused
        self._paused_at = 0.0
        ours, theirs = pair()
        self._link = MessageLink(ours)
        self._number = parent.make_machine(theirs.fileno(), stream, left)
        theirs.close()
        try:
            self._expect(messages.BUILT)
        except BaseException:
            self._link.close()
            raise

    # Life

    def start(self) -> None:
        """Start it, with the loop in a thread of its own. Raises StartError, PyvmmError."""
        self._link.send(messages.START)
        self._expect(messages.STARTED)
        if self._left is not None:
            self._due = self._loop.clock() + self._left + GRACE
            self._watchdog = self._loop.call_later(self._left + GRACE, self._overdue)
        self._link.serve(self._loop, self._received)
        self._started = True  # the loop may end the run at once
        try:
            self._loop_run.start()
        except StartError:
            self._started = False
            raise

    def wait(self) -> Ending:
        """How it ended, after ``start``; it is closed then."""
        assert self._started, "wait() follows start()"
        self._loop_run.wait()
        self.close()
        assert self.ending is not None, "the loop runs until then"
        return self.ending

    def stop(self, reason: str = "stopped", detail: str = "stopped by the host") -> None:
        """End it; its process is killed when it has not ended in time. Any thread."""
        if not self._started:
            self._end(Ending(STOPPED, reason, TOLD, detail))
        elif self._stopping is None and self.ending is None:
            self._stopping = reason, detail
            self._link.send(messages.STOP + messages.fields(reason, detail))
            self._killer = self._loop.call_later(GRACE, self._kill)

    def close(self) -> None:
        """End it and forget it. Idempotent. Not from the loop's thread."""
        if self.ending is None:
            self.stop()
        self._loop_run.wait()
        self._link.close()
        for timer in (self._killer, self._watchdog):
            if timer is not None:
                timer.cancel()

    def power_button(self) -> None:
        """Press the power button. Any thread."""
        self._link.send(messages.BUTTON)

    def pause(self) -> None:
        """Stop its CPUs; returns when all have stopped.

        Before the start it raises StartError, and another PyvmmError, for a process that has failed.
        """
        if not self.paused:
            self._paused_at = self._loop.clock()
        self.paused = True
        self._ask(messages.PAUSE)

    def resume(self) -> None:
        """Let them go on. Raises StartError, PyvmmError as ``pause``."""
        self._ask(messages.RESUME)
        if self.paused:
            self._held += self._loop.clock() - self._paused_at
        self.paused = False

    # Inside

    def _loop_failed(self, error: BaseException) -> None:
        self._end(Ending(FATAL, "internal", UNKNOWN, f"event loop: {error!r}"))
        self._parent.kill_machine()

    def _kill(self) -> None:
        if self.ending is None:
            self._parent.kill_machine()

    def _overdue(self) -> None:
        """Its time is over, and its process has not ended it."""
        now = self._loop.clock()
        held = self._held + (now - self._paused_at if self.paused else 0.0)
        if self._due + held > now:
            self._watchdog = self._loop.call_later(self._due + held - now, self._overdue)
        elif self.ending is None:
            self._stopping = "timeout", f"the guest did not end within {self._left:g} seconds"
            self._parent.kill_machine()

    def _expect(self, kind: bytes) -> None:
        """Wait for a message of *kind*, before the loop runs. Raises what FAILED tells."""
        while True:
            self._link.wait(-1)
            found = self._link.receive()
            if found is None:
                continue
            message = found[0]
            if message[:1] == kind:
                return
            if message[:1] == messages.FAILED:
                raise _error(message)
            if not message:
                raise StartError(self._gone())
            self._received(*found)

    def _gone(self) -> str:
        status = self._parent.status(self._number)
        if status is not None and status < 0:
            return f"the guest's process was ended by {name_of(-status)}"
        return "the guest's process has ended"

    def _ask(self, kind: bytes) -> None:
        """Have it do what *kind* says, and wait until it is done or the machine is over."""
        if not self._started:
            self._link.send(kind)
            self._expect(messages.DONE)
            return
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._link.send(kind)
            self._changed.wait_for(lambda: self._done >= mine or self.ending is not None, _PATIENCE)

    def _end(self, ending: Ending) -> None:
        with self._changed:
            self.ending = self.ending or ending
            self._changed.notify_all()
        if self._started:
            self._loop.stop()

    def _received(self, message: bytes, fd: int) -> None:
        kind = message[:1]
        if fd >= 0:
            os.close(fd)  # it has none to give
        if kind == messages.DONE:
            with self._changed:
                self._done += 1
                self._changed.notify_all()
        elif kind == messages.LOGGED:
            self._take_log(message[1:])
        elif kind == messages.REPORT:
            _report(message)
        elif kind == messages.ENDED:
            self._end(_ending(message))
        elif not kind and self.ending is None:
            sentence = self._gone()
            if self._stopping is not None:
                reason, detail = self._stopping
                detail = f"{detail}; it did not react for {GRACE:g} seconds and was killed"
                self._end(Ending(STOPPED, reason, TOLD, detail))
            else:
                self._end(Ending(FATAL, "internal", UNKNOWN, f"{sentence}; report it"))

    def _take_log(self, part: bytes) -> None:
        if part and len(self._logged) < _LOG_MAX:
            self._logged += part
            return
        with self._changed:
            self._text, self._logged = self._logged.decode(errors="replace"), bytearray()
            self._logs += 1
            self._changed.notify_all()

    def console_text(self) -> str:
        """What its consoles have shown lately; in the loop's thread, what the serial console has."""
        if self.ending is not None:
            return self._text or self._serial.text()
        if not self._started or self._loop.inside:
            return self._serial.text()
        with self._changed:
            before = self._logs
            if self._link.send(messages.LOG):
                self._changed.wait_for(lambda: self._logs > before or self.ending, _LOG_PATIENCE)
            return self._text if self._logs > before else self._serial.text()


class _Log:
    """What ``Machine.log`` is."""

    def __init__(self, machine: VmMachine) -> None:
        self._machine = machine

    def text(self) -> str:
        """The last 16 KiB of output."""
        return self._machine.console_text()


def _error(message: bytes) -> PyvmmError:
    """The error that FAILED tells of."""
    name, _, text = message[1:].decode(errors="replace").partition(messages.SEPARATOR)
    module, _, last = name.rpartition(".")
    kind: object = None
    if module.startswith("pyvmm."):
        try:
            kind = getattr(import_module(module), last, None)
        except ImportError:
            pass
    text = printable(text, _REPORT_LENGTH)
    if isinstance(kind, type) and issubclass(kind, PyvmmError):
        return kind.__new__(kind, text)
    return StartError(text)


def _ending(message: bytes) -> Ending:
    fields = message[1:].decode(errors="replace").split(messages.SEPARATOR)
    try:
        code, reason, known, detail = fields
        return Ending(int(code) & 0xFF, reason, known, detail)
    except ValueError:  # no record of ours
        return Ending(FATAL, "internal", UNKNOWN, "the guest's process tells no ending; report it")


def _report(message: bytes) -> None:
    level, _, rest = message[1:].decode(errors="replace").partition(messages.SEPARATOR)
    name, _, text = rest.partition(messages.SEPARATOR)
    suppressed = _reports.take("a VM process")
    if suppressed is not None and name.startswith("pyvmm") and level in _LEVELS:
        line = with_suppressed(printable(text, _REPORT_LENGTH), suppressed)
        logger(name).log(int(level), "%s", line, extra={"limited": True})
