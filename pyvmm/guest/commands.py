"""The exec channel of one machine: commands started from any thread, run by the machine's loop."""

from __future__ import annotations

import time
from collections import deque

from pyvmm.exec.channel import PORT_NAME, ExecChannel, ExecLink
from pyvmm.exec.session import EXIT, LOST, READY, ROOM, STDERR, STDOUT, ExecSession
from pyvmm.virtio.console.device import VirtioConsole
from pyvmm.virtio.console.port import Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.exec.session import Request
    from pyvmm.guest.watch import Watch
    from pyvmm.loop import Loop
    from pyvmm.machine.ending import Ending

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
            self._commands.call(lambda: self._commands.consumed(self, len(data)))
        return data

    def send_signal(self, number: int) -> None:
        """Send a signal to the command's process group. Any thread."""
        self._commands.call(lambda: self._commands.signal(self, number))

    def abandon(self) -> None:
        """Nobody waits for it any more: kill it, drop what it writes. Any thread."""
        self._abandoned = True
        self.send_signal(9)

    # In the loop's thread

    def wrote(self, stream: int, data: bytes) -> None:
        """Output came."""
        commands = self._commands
        if self._abandoned or self.overflow:
            commands.consumed(self, len(data))
            return
        with commands.watch.condition:
            self.output[stream] += data
            total = len(self.output[STDOUT]) + len(self.output[STDERR])
        if self._output_max:
            commands.consumed(self, len(data))
            if total > self._output_max:
                self.overflow = True
                commands.signal(self, 9)
        commands.watch.changed()

    def exited(self, status: int, signal: int) -> None:
        """It ended."""
        with self._commands.watch.condition:
            self.ended = time.monotonic()
            self.status, self.signal = status, signal
            self._input.clear()
            self.pending = 0
        self._commands.watch.changed()

    def gave_up(self) -> None:
        """Its server began anew."""
        self.lost = True
        self._commands.watch.changed()

    def feed(self, session: ExecSession) -> None:
        """Send what input there is room for."""
        if self._input:
            sent = session.send_stdin(memoryview(self._input))
            if sent:
                del self._input[:sent]
                with self._commands.watch.condition:
                    self.pending = len(self._input)
                self._commands.watch.changed()
        if self._eof and not self._input:
            self._eof = False
            session.eof()

    def _more_input(self, data: bytes) -> None:
        if not self.over:
            self._input += data
            self._commands.feed(self)

    def _end_input(self) -> None:
        self._eof = True
        self._commands.feed(self)


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
        self._link.receiver = self._receive
        self._session = ExecSession()
        self._waiting: deque[Command] = deque()
        self._running: Command | None = None
        self._loop: Loop | None = None

    def begin(self, loop: Loop) -> None:
        """The machine is made; *loop* is its event loop."""
        self._loop = loop
        loop.call_soon(self._flush)

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
        self.call(lambda: self._start(command))
        return command

    def power(self, *, reboot: bool) -> None:
        """Ask the guest to end its processes and power off, or reboot. Any thread."""

        def ask() -> None:
            self._session.power(reboot=reboot)
            self._flush()

        self.call(ask)

    def feed(self, command: Command) -> None:
        """*command* has input. Loop's thread."""
        if command is self._running:
            command.feed(self._session)
            self._flush()

    def consumed(self, command: Command, size: int) -> None:
        """So much of its output was taken. Loop's thread."""
        if command is self._running:
            self._session.consumed(size)
            self._flush()

    def signal(self, command: Command, number: int) -> None:
        """A signal for the command. Loop's thread."""
        if command is self._running:
            self._session.signal(number)
            self._flush()

    def _start(self, command: Command) -> None:
        self._waiting.append(command)
        self._next()

    def _next(self) -> None:
        if self._running is None and self._waiting:
            command = self._running = self._waiting.popleft()
            self._session.run(command.request)
            command.feed(self._session)
            self._flush()

    def _flush(self) -> None:
        data = self._session.outgoing()
        if data:
            self._link.send(data)

    def _receive(self, data: bytes) -> None:
        for event, value in self._session.feed(data):
            command = self._running
            if event == READY:
                self.ready = True
                self.watch.changed()
            elif command is None:
                continue
            elif event == ROOM:
                command.feed(self._session)
            elif event == EXIT:
                assert isinstance(value, int)
                self._running = None
                command.exited(value, value - 128 if value > 128 else 0)
                self._next()
            elif event == LOST:
                self._running = None
                command.gave_up()
                self._next()
            elif isinstance(value, bytes):
                command.wrote(event, value)
        self._flush()
