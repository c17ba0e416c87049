"""The parent of a guest's VM process: the process that the shell knows as ``pyvmm run``.

It has no guest memory and waits for no answer of the VM process without a limit, so that it can end the
machine at any time.
"""

from __future__ import annotations

import os

from pyvmm.errors import StartError
from pyvmm.loop import READ, Loop
from pyvmm.machine.ending import FATAL, STOPPED, TOLD, UNKNOWN, Ending
from pyvmm.sandbox.leftovers import Leftovers
from pyvmm.sandbox.link import BEGINS, BREAK, CLIENT, ENDED, ENDING, KEEP, NAME_GIVEN_UP, PAUSED, SIGNAL, STOP
from pyvmm.signals import ENDING as ENDING_SIGNALS
from pyvmm.signals import SIGCONT, SIGINT, SIGSTOP, SIGTSTP, SIGWINCH, SignalFd, heard, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.cli.keyboard import Keyboard
    from pyvmm.config import Config
    from pyvmm.guest.control_listener import ControlListener
    from pyvmm.guest.registry import Claim
    from pyvmm.loop import Timer
    from pyvmm.machine.host_side import HostSide
    from pyvmm.sandbox.vm_process import VmProcess

#: Seconds that a machine gets to end once somebody has asked for it; then it is killed.
GRACE = 5.0
#: The same while its guest has not begun: it has nothing to tidy up, and KVM may hold it for long.
_BUILD_GRACE = 0.5
#: Seconds that a killed process gets to be gone: KVM may free much memory for it.
_KILL_PATIENCE = 2.0
#: Seconds that a machine gets to be paused before the job stops.
_PAUSE_PATIENCE = 2.0
#: Seconds after which other processes can reach a guest that has started: many end sooner.
_CONTROL_DELAY = 0.25
#: How often, and after how many seconds again, a name is looked for that is not the user's choice.
_TRIES = 5
_BY_KEY = "ended by the user"
_PAUSE = 0.5


class VmParent:
    """Passes signals and clients of the control socket to a VM process, and waits for its end.

    The signals of ``signals.ENDING`` ask the machine to end, as --timeout and Ctrl-A x do; GRACE later it is
    killed, and one whose guest has not begun half a second later.

    Made before the VM process, so that no signal is lost and the VM process sees none. Raises StartError when
    the host gives no descriptors.

    :param claim: the guest's name, where that is the user's choice
    :param keys: whether standard input is a terminal whose keys are for the guest
    :param button: seconds that the guest gets to shut down when its power button was pressed; 0: it is not
    """

    def __init__(self, config: Config, claim: Claim | None, keys: bool, button: float) -> None:
        self._config = config
        self._claim = claim
        self._button = button
        #: What the guest has on the host: closed when the guest has ended.
        self.host_side: HostSide | None = None
        self._tries = 0 if claim is not None else _TRIES
        self._listener: ControlListener | None = None
        job = [SIGTSTP, SIGCONT] if heard(SIGTSTP) else []
        sized = config.uses_stdio or config.exec is not None
        taken = [*heard(*ENDING_SIGNALS), *job, *([SIGWINCH] if sized else [])]
        try:
            self._loop = Loop()
        except OSError as error:
            raise StartError(f"no event loop: {error.strerror}; raise the limit (ulimit -n)") from None
        self._signals = SignalFd(self._loop, dict.fromkeys(taken, self._signalled))
        self._keyboard: Keyboard | None = None
        if keys:
            from pyvmm.cli.keyboard import Keyboard

            breaks = config.exec is None and config.console == "stdio"
            self._keyboard = Keyboard(self._quit, self._break if breaks else None)
        self._restarts = config.on_reboot == "restart" and config.exec is None
        #: What one machine leaves for the next; None where none follows.
        self.leftovers: Leftovers | None = Leftovers() if self._restarts else None
        #: Seconds that the guest has left, over all its machines.
        self.left = config.timeout
        self._process: VmProcess
        self._ending: Ending | None = None
        self._interrupted = False
        self._lingers = False  # the VM process ends by itself, after this one
        self._deadlines: list[_Deadline] = []  # at which it is killed
        self._begun = False  # the guest of this VM process
        self._reached = False  # whether other processes can reach the guest, or will be able to
        self._early: _Deadline | None = None  # at which it is killed unless it begins
        self._asked = False
        self._why = "stopped", TOLD, ""
        self._pausing: Timer | None = None
        #: The command's exit status, for ``--exec``.
        self.command_status: int | None = None

    def __enter__(self) -> VmParent:
        return self

    def __exit__(self, *_: object) -> None:
        if self._keyboard is not None:
            self._keyboard.close()
        if self.leftovers is not None:
            self.leftovers.close()
        self._close_host_side()
        self._give_up_name()
        self._signals.close()
        self._loop.close()

    def close_copy(self) -> None:
        """In the VM process: close what the fork has copied. The signals stay blocked."""
        if self._claim is not None:
            self._claim.close_copy()
        if self._keyboard is not None:
            self._keyboard.close_copy()
        self._signals.close_copy()
        self._loop.close()

    def until_end_of(self, process: VmProcess) -> Ending | int:
        """How the machine of *process* ended; where it never began, its exit code: it has said why.

        After a reboot of a guest that is to restart, ``goes_on``: another process may follow.
        """
        first = self._ending is None
        self._process = process
        self._ending = None
        self._begun = False
        loop = self._loop
        loop.add(process.fd, READ, lambda events: loop.stop())
        process.serve(loop, self._received)
        if self.leftovers is not None:
            self.leftovers.forget_descriptors()
        if first and self._keyboard is not None:
            self._keyboard.attach(loop)
        if self.left is not None:
            limit = self._config.timeout
            patience = self.left + self._button + GRACE
            self._kill_after(patience, "timeout", f"the guest did not end within {limit:g} seconds")
        try:
            loop.run()
            outcome = self._outcome()
            if isinstance(outcome, Ending) and outcome.reason == "reboot" and self._restarts and self._asked:
                return Ending(STOPPED, *self._why)
            return outcome
        finally:
            while self._deadlines:
                self._deadlines.pop().cancel()
            loop.remove(process.fd)
            process.close()

    @property
    def goes_on(self) -> bool:
        """Whether the guest's next machine follows: it has rebooted, and nobody has asked it to end."""
        rebooted = self._ending is not None and self._ending.reason == "reboot"
        return rebooted and self._restarts and not self._asked

    def _outcome(self) -> Ending | int:
        if self._ending is not None and self._lingers:
            return self._ending
        status = self._process.wait()
        while self._ending is None and (found := self._process.link.receive()) is not None and found[0]:
            self._received(*found)
        if self._ending is not None:
            return self._ending
        if status >= 0:
            return status
        return Ending(
            FATAL, "internal", UNKNOWN, f"the guest's process was ended by {name_of(-status)}; report it"
        )

    # From the VM process

    def _received(self, message: bytes, fd: int) -> None:
        kind, rest = message[:1], message[1:]
        if fd >= 0:
            if kind == KEEP and self.leftovers is not None:
                self.leftovers.keep(rest, fd)
            else:
                os.close(fd)  # it has no other to give
        if kind == BEGINS:
            self._begun = True
            if self._early is not None:
                self._early.cancel()
            if not self._reached:
                self._reached = True
                self._loop.call_later(_CONTROL_DELAY, self._serve)
        elif kind == ENDING:
            reason, _, detail = rest.decode(errors="replace").partition("\0")
            self._kill_later(reason, detail)
        elif kind == PAUSED:
            if self._pausing is not None:
                self._stop_job()
        elif kind == ENDED and self._ending is None:
            self._ended(rest)

    def _ended(self, record: bytes) -> None:
        try:
            code, status, linger, left, reason, known, detail = record.decode(errors="replace").split("\0")
            ending = Ending(int(code) & 0xFF, reason, known, detail)
            self.command_status = int(status) & 0xFF if status else None
            if left:
                seconds = float(left)
                self.left = min(seconds, self.left or 0.0) if seconds > 0 else 0.0  # also for NaN
        except ValueError:  # no record of ours: how the process ends tells more
            return
        self._ending = ending
        if not self.goes_on:
            self._close_host_side()
            self._give_up_name()
        self._process.link.send(NAME_GIVEN_UP)
        if linger:
            self._lingers = True
            self._loop.stop()
        else:
            self._kill_after(GRACE, "", "")

    # Keys

    def _quit(self) -> None:
        self._process.link.send(STOP + _BY_KEY.encode())
        self._kill_later("stopped", _BY_KEY)

    def _break(self) -> None:
        self._process.link.send(BREAK)

    # Signals

    def _signalled(self, number: int) -> None:
        if number == SIGTSTP:
            if self._pausing is None:
                self._pausing = self._loop.call_later(_PAUSE_PATIENCE, self._stop_job)
        elif number == SIGCONT:
            os.kill(self._process.pid, SIGCONT)
            if self._keyboard is not None:
                self._keyboard.continue_job()
        elif number != SIGWINCH:
            # A command's terminal or pipe has its own Ctrl-C: the first is the command's.
            if self._config.exec is None or number != SIGINT or self._interrupted:
                self._kill_later("stopped", f"ended by {name_of(number)}")
            self._interrupted = True
        self._process.link.send(SIGNAL + bytes([number]))

    def _stop_job(self) -> None:
        """The machine is paused, or does not answer: stop as a job does, with the VM process."""
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        if self._keyboard is not None:
            self._keyboard.release()
        os.kill(self._process.pid, SIGSTOP)
        began = self._loop.clock()
        os.kill(os.getpid(), SIGSTOP)
        # Continued: SIGCONT is in the signalfd. What the guest has left is as much as it was.
        for deadline in self._deadlines:
            deadline.move(self._loop.clock() - began)

    # The end

    def _kill_later(self, reason: str, detail: str) -> None:
        if not self._asked:
            self._asked = True
            self._why = reason, TOLD, detail
            if not self._begun:
                before = f"{detail} before the guest began"
                self._early = self._kill_after(_BUILD_GRACE, reason, before, reacts=True)
            self._kill_after(self._button + GRACE, reason, detail)
        elif self._button:  # asked once more: the guest gets no time to shut down
            self._kill_after(GRACE, reason, detail)
            self._button = 0.0

    def _kill_after(self, seconds: float, reason: str, detail: str, reacts: bool = False) -> _Deadline:
        if not reacts:
            detail = f"{detail}; it did not react for {GRACE:g} seconds and was killed"
        deadline = _Deadline(self._loop, seconds, lambda: self._kill(reason, detail))
        self._deadlines.append(deadline)
        return deadline

    def _kill(self, reason: str, detail: str) -> None:
        from select import POLLIN, poll  # few guests have to be killed

        if self._ending is None:
            self._ending = Ending(STOPPED, reason, TOLD, detail)
        self._process.kill()
        end = poll()
        end.register(self._process.fd, POLLIN)
        self._lingers = not end.poll(_KILL_PATIENCE * 1000)
        self._loop.stop()

    # The control socket

    def _serve(self) -> None:
        """The guest has started: other processes may reach it."""
        from pyvmm.guest.control_listener import ControlListener
        from pyvmm.guest.registry import RegistryError, claim

        if self._ending is not None:
            return
        if self._claim is None:
            if not self._tries:
                return
            self._tries -= 1
            try:
                self._claim = claim(None, patience=0)
            except RegistryError:  # locked by another process this moment, or no place for sockets
                self._loop.call_later(_PAUSE, self._serve)
                return
        name = self._claim.name.encode()
        self._listener = ControlListener(
            self._loop, self._claim, lambda client: self._process.link.send(CLIENT + name, client.fileno())
        )
        self._listener.listen()

    def _close_host_side(self) -> None:
        if self.host_side is not None:
            self.host_side.close()

    def _give_up_name(self) -> None:
        self._tries = 0
        if self._listener is not None:
            self._listener.close()
        elif self._claim is not None:
            self._claim.close()


class _Deadline:
    """A timer of *loop* that can be moved."""

    def __init__(self, loop: Loop, seconds: float, function: Callable[[], object]) -> None:
        self._loop = loop
        self._function = function
        self._timer = loop.call_later(seconds, function)

    def cancel(self) -> None:
        self._timer.cancel()

    def move(self, seconds: float) -> None:
        """Make it so much later, unless it is over."""
        if self._timer.active:
            self._timer.cancel()
            left = self._timer.when + seconds - self._loop.clock()
            self._timer = self._loop.call_later(max(0.0, left), self._function)
