"""The exec channel of one machine: commands started from any thread, run by the machine's loop."""

from __future__ import annotations

import time

from pyvmm.exec.channel import PORT_NAME, ExecChannel, ExecLink
from pyvmm.exec.client import ExecClient
from pyvmm.virtio.console.device import VirtioConsole
from pyvmm.virtio.console.port import Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.exec.client import Run
    from pyvmm.exec.request import Request
    from pyvmm.guest.watch import Watch
    from pyvmm.loop import Loop
    from pyvmm.machine.ending import Ending

#: The streams of a command's output.
STDOUT, STDERR = 1, 2
#: Bytes of standard input that wait for the guest; who writes more waits until they are fewer.
INPUT_MAX = 256 << 10


class Command:
    """One command: what it wrote that nobody has read yet, how it ended. Read under the watch's condition."""

    def __init__(self, commands: Commands, request: Request, output_max: int) -> None:
        self.request = request
        #: Output that waits to be read, by stream: STDOUT and STDERR.
        self.output = {STDOUT: bytearray(), STDERR: bytearray()}
        #: Input that waits for the guest, in bytes.
        self.pending = 0
        #: The exit status; None until it has ended.
        self.status: int | None = None
        #: The signal that ended it.
        self.signal = 0
        #: The guest's server began anew: there will be no status.
        self.lost = False
        #: More output than was asked for; the command is killed then.
        self.overflow = False
        self.begun = self.ended = time.monotonic()
        self._commands = commands
        self._output_max = output_max
        self._input = bytearray()
        self._eof = False
        self._abandoned = False
        self._run: Run | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or the other."""
        return self.lost or self.status is not None

    def write(self, data: bytes) -> None:
        """Queue input. The caller has waited until ``pending`` is below INPUT_MAX. Any thread."""
        with self._commands.watch.condition:
            self.pending += len(data)
        self._commands.call(lambda: self._more_input(data))

    def close_input(self) -> None:
        """End of input. Any thread."""
        self._commands.call(self._end_input)

    def take(self, stream: int, most: int) -> bytes:
        """Up to *most* bytes of what waits to be read; the guest may send as many more. Any thread."""
        with self._commands.watch.condition:
            held = self.output[stream]
            data = bytes(held[:most])
            del held[:most]
        if data and not self._output_max:
            self._commands.call(lambda: self._consumed(len(data)))
        return data

    def send_signal(self, number: int) -> None:
        """Send a signal to the command's process group. Any thread."""
        self._commands.call(lambda: self._signal(number))

    def abandon(self) -> None:
        """Nobody waits for it any more: kill it, drop what it writes. Any thread."""
        self._abandoned = True
        self.send_signal(9)

    # In the loop's thread

    def begin(self, client: ExecClient) -> None:
        """Start it over *client*'s link."""
        self._run = client.start(
            self.request,
            on_stdout=lambda run, data: self._wrote(STDOUT, data),
            on_stderr=lambda run, data: self._wrote(STDERR, data),
            on_room=lambda run: self._feed(),
            on_exit=self._exited,
        )
        self._feed()

    def _wrote(self, stream: int, data: bytes) -> None:
        commands = self._commands
        if self._abandoned or self.overflow:
            self._consumed(len(data))
            return
        with commands.watch.condition:
            self.output[stream] += data
            total = len(self.output[STDOUT]) + len(self.output[STDERR])
        if self._output_max:
            self._consumed(len(data))
            if total > self._output_max:
                self.overflow = True
                self._signal(9)
        commands.watch.changed()

    def _exited(self, run: Run) -> None:
        with self._commands.watch.condition:
            self.ended = time.monotonic()
            self.status, self.signal = run.status, run.signal_number
            self.lost = run.error is not None
            self._input.clear()
            self.pending = 0
        self._commands.watch.changed()

    def _feed(self) -> None:
        run = self._run
        if run is None:
            return
        if self._input:
            sent = run.write(self._input)
            if sent:
                del self._input[:sent]
                with self._commands.watch.condition:
                    self.pending = len(self._input)
                self._commands.watch.changed()
        if self._eof and not self._input:
            self._eof = False
            run.eof()

    def _consumed(self, size: int) -> None:
        if self._run is not None:
            self._run.consumed(size)

    def _signal(self, number: int) -> None:
        if self._run is not None:
            self._run.signal(number)

    def _more_input(self, data: bytes) -> None:
        if not self.over:
            self._input += data
            self._feed()

    def _end_input(self) -> None:
        self._eof = True
        self._feed()


class Commands:
    """The exec channel: what the machine is given for it, and the commands over it.

    Made anew for each machine. ``start`` is for any thread, the rest happens in the machine's loop.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        #: Whether the guest's server has answered.
        self.ready = False
        #: How the machine ended; None while it runs.
        self.ending: Ending | None = None
        #: What the guest said that is no protocol of ours; commands cannot be run then.
        self.error: Exception | None = None
        self.serial, self._port = ExecChannel(), ExecChannel()
        #: The device of the faster way, for the machine.
        self.device = VirtioConsole([Port(self._port, PORT_NAME, console=False)])
        self._link = ExecLink((self.serial, self._port))
        self._client = ExecClient(self._link.send, on_ready=self._answered)
        self._link.receiver = self._client.receive
        self._loop: Loop | None = None

    def begin(self, loop: Loop) -> None:
        """The machine is made; *loop* is its event loop."""
        self._loop = loop
        loop.call_soon(self._client.connect)

    def call(self, function: Callable[[], object]) -> None:
        """Call *function* in the loop's thread; no effect when the machine is over."""
        if self._loop is not None:
            self._loop.call_soon(function)

    def start(self, request: Request, output_max: int = 0) -> Command:
        """Start a command as soon as the guest can.

        With *output_max* its outputs are collected up to so many bytes, else the guest sends as much as is
        read.
        """
        command = Command(self, request, output_max)
        self.call(lambda: command.begin(self._client))
        return command

    def power(self, *, reboot: bool) -> None:
        """Ask the guest to end its processes and power off, or reboot. Any thread."""
        self.call(lambda: self._client.power(reboot=reboot))

    def _answered(self) -> None:
        self.ready = True
        self.watch.changed()
