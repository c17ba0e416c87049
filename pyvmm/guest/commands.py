"""The commands of one machine: started from any thread, run by the machine's loop."""

from __future__ import annotations

import time

from pyvmm.errors import PyvmmError
from pyvmm.guest.port import ExecPort

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.exec.channel import ExecLink
    from pyvmm.exec.client import ExecClient, Run
    from pyvmm.exec.request import Request
    from pyvmm.guest.exec_socket import ExecSocket
    from pyvmm.guest.watch import Watch
    from pyvmm.loop import Loop
    from pyvmm.machine.ending import Ending

#: The streams of a command's output.
STDOUT, STDERR = 1, 2
#: Bytes of standard input that wait for the guest; who writes more waits until they are fewer.
INPUT_MAX = 512 << 10
#: Who waits is woken when so many are left.
INPUT_LOW = INPUT_MAX // 2

_KILL = 9


class Command:
    """One command: its output that is not read yet, and how it ended. Read under the watch's condition.

    :param output_max: bytes of output that are kept, more kill the command; 0 for flow control instead
    """

    def __init__(self, commands: Commands, output_max: int) -> None:
        #: Output that waits to be read, by stream: STDOUT and STDERR.
        self.output = {STDOUT: bytearray(), STDERR: bytearray()}
        #: Input that waits for the guest, in bytes.
        self.pending = 0
        #: The exit status; None until it has ended.
        self.status: int | None = None
        #: The signal that ended it.
        self.signal = 0
        #: Why there will be no status: it was not started, or the guest's server began anew.
        self.error: PyvmmError | None = None
        #: More output than was asked for; the command is killed then.
        self.overflow = False
        self.begun = self.ended = time.monotonic()
        self._commands = commands
        self._watch = commands.watch
        self._output_max = output_max
        self._run: Run | None = None
        self._input = bytearray()
        self._eof = False
        self._abandoned = False

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or the other."""
        return self.error is not None or self.status is not None

    def write(self, data: bytes) -> None:
        """Queue input. The caller has waited until ``pending`` is below INPUT_MAX. Any thread."""
        with self._watch.condition:
            self.pending += len(data)
        self._commands.call(lambda: self._more_input(data))

    def close_input(self) -> None:
        """End of input. Any thread."""
        self._commands.call(self._end_input)

    def take(self, stream: int, most: int) -> bytes:
        """Up to *most* bytes of *stream*, STDOUT or STDERR; the guest may send as many more. Any thread."""
        with self._watch.condition:
            held = self.output[stream]
            data = bytes(held[:most])
            del held[:most]
        if data and not self._output_max:
            self._commands.call(lambda: self._consumed(len(data)))
        return data

    def send_signal(self, number: int) -> None:
        """Send signal *number* to the command's process group. Any thread."""
        self._commands.call(lambda: self._signal(number))

    def abandon(self) -> None:
        """Nobody waits for it any more: kill it, drop what it writes. Any thread."""
        self._commands.call(self._abandon)

    # In the loop's thread

    def start(self, client: ExecClient, request: Request) -> None:
        """Start it."""
        try:
            self._run = client.start(
                request,
                on_stdout=lambda run, data: self._wrote(STDOUT, data),
                on_stderr=lambda run, data: self._wrote(STDERR, data),
                on_room=lambda run: self._feed(),
                on_exit=self._exited,
            )
        except PyvmmError as error:
            self.error = error
            self._watch.changed()

    def _wrote(self, stream: int, data: bytes) -> None:
        if self._abandoned or self.overflow:
            self._consumed(len(data))
            return
        with self._watch.condition:
            self.output[stream] += data
            total = len(self.output[STDOUT]) + len(self.output[STDERR])
        if self._output_max:
            self._consumed(len(data))
            if total > self._output_max:
                self.overflow = True
                self._signal(_KILL)
        self._watch.changed()

    def _exited(self, run: Run) -> None:
        with self._watch.condition:
            self.ended = time.monotonic()
            self.status, self.signal, self.error = run.status, run.signal_number, run.error
            self._input = bytearray()
            self.pending = 0
        self._watch.changed()

    def _more_input(self, data: bytes) -> None:
        if self.over:
            return
        self._input += data
        self._feed()

    def _end_input(self) -> None:
        self._eof = True
        self._feed()

    def _feed(self) -> None:
        """Send what input there is room for."""
        run = self._run
        if run is None:
            return
        if self._input:
            sent = run.write(self._input[: run.room])
            if sent:
                del self._input[:sent]
                with self._watch.condition:
                    before, self.pending = self.pending, self.pending - sent
                if before > INPUT_LOW >= self.pending:
                    self._watch.changed()  # not at each credit: waking the writer takes longer than sending
        if self._eof and not self._input:
            self._eof = False
            run.eof()

    def _consumed(self, size: int) -> None:
        if self._run is not None:
            self._run.consumed(size)

    def _signal(self, number: int) -> None:
        if self._run is not None:
            self._run.signal(number)

    def _abandon(self) -> None:
        self._abandoned = True
        with self._watch.condition:
            waiting = len(self.output[STDOUT]) + len(self.output[STDERR])
        if not self._output_max:
            self._consumed(waiting)
        self._signal(_KILL)


class Commands(ExecPort):
    """The commands of one machine, for any thread: ``start`` and ``power``. The rest is the loop's.

    :param link: the way to the guest
    """

    def __init__(self, watch: Watch, loop: Loop, link: ExecLink | ExecSocket) -> None:
        super().__init__(link, watch.changed)
        self.watch = watch
        #: How the machine ended; None while it runs.
        self.ending: Ending | None = None
        self._loop = loop

    def connect(self) -> None:
        """The machine is made: greet its guest. Any thread."""
        self.call(self.client.connect)

    def call(self, function: Callable[[], object]) -> None:
        """Call *function* in the loop's thread; no effect when the guest is over."""
        self._loop.call_soon(function)

    def start(self, request: Request, output_max: int = 0) -> Command:
        """Start a command as soon as the guest can.

        With *output_max* its outputs are collected up to so many bytes, else the guest sends as much as is
        read.
        """
        command = Command(self, output_max)
        self.call(lambda: command.start(self.client, request))
        return command

    def power(self, *, reboot: bool) -> None:
        """Ask the guest to end its processes and power off, or reboot. Any thread."""
        self.call(lambda: self.client.power(reboot=reboot))

    def end(self, ending: Ending) -> None:
        """The machine has ended: so have its commands. While the loop does not run."""
        with self.watch.condition:
            self.ending = ending
        self.client.disconnect("the guest has ended")
        self.watch.changed()
