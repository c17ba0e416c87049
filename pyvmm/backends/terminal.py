"""The process's own standard input and output: a terminal in raw mode, or pipes and files.

After termios(3) and credentials(7), "job control".
"""

from __future__ import annotations

import atexit
import errno
import os

from pyvmm.backends.duplex import Duplex
from pyvmm.host.nonblocking import open_again
from pyvmm.host.notice import notice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.backends.terminal_guard import TerminalGuard
    from pyvmm.loop import Loop, Timer

ESCAPE = 0x01  # Ctrl-A
_BREAK_HELP = "\r\nCtrl-A b  send a break (with a Linux guest: then h lists the magic SysRq keys)"
_HELP = "\r\nCtrl-A a  send Ctrl-A itself; so does Ctrl-A Ctrl-A\r\nCtrl-A h  this help\r\n"

_SIGSTOP = 19
# How often a job in the background looks whether it has come to the foreground.
_FOREGROUND_TICK = 0.5
# Output that is buffered at the end is written as long as the reader accepts some of it this often.
_PATIENCE = 3.0


class Terminal(Duplex):
    """Standard input and output, or the descriptors *stdin* and *stdout*, as the guest's console.

    A terminal is put into raw mode, except for its output processing (a guest's bare newline
    starts a new line, as does ours). Its mode is restored by ``close`` or at the end of the
    interpreter, and by a TerminalGuard when the process is killed or crashes. Ctrl-A is the escape key;
    *on_quit* is called at Ctrl-A x. In the background the terminal's mode and input are left alone until the
    job is in the foreground.

    From a pipe or file every byte goes to the guest as it is, up to the end of file.
    When the reader of the output closes it, output is dropped and the guest runs on.

    Neither descriptor is made non-blocking, because the user's shell has them open too: they are
    opened a second time where that is possible, and polled where not (sockets).
    """

    #: What Ctrl-A x does.
    quit_help = "end the virtual machine"

    def __init__(self, on_quit: Callable[[], object] | None = None, stdin: int = 0, stdout: int = 1) -> None:
        super().__init__()
        self._patience = _PATIENCE
        self.on_quit = on_quit
        self._stdin = stdin
        self._stdout = stdout
        self._escaped = False
        self._modes: list[object] | None = None  # the terminal's own, while it is raw
        self._guard: TerminalGuard | None = None  # while it is raw
        self._opened: list[int] = []
        self._in = self._out = -1
        self._blocking = False  # ``_out`` is the one that other processes have, too
        self._timer: Timer | None = None
        self._is_terminal = os.isatty(stdin)

    def open(self) -> None:
        """Open both descriptors once more, for this process alone."""
        if self._in >= 0:
            return
        self._out = self._own(self._stdout, os.O_WRONLY)
        self._blocking = self._out < 0
        if self._blocking:
            self._out = self._stdout
        self._in = self._own(self._stdin, os.O_RDONLY)
        if self._in < 0:
            self._in = self._stdin
        atexit.register(self.release)

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        """Begin, and put the terminal into raw mode."""
        if self._reader is not None and self._loop is loop:
            self._reader.serve(receive, space)
            return
        self._begin(loop, receive, space, sift=self._sift if self._is_terminal else None)
        self._writer.open(loop, self._out, self._blocking)
        self._take_when_in_foreground()

    def detach(self) -> None:
        """Leave the loop. A terminal stays in it, and raw: its escape key works without a machine, too."""
        if self._is_terminal and self._reader is not None:
            self._reader.serve(lambda _: False, lambda: 0)
        else:
            self._leave()

    def size(self) -> tuple[int, int] | None:
        """Columns and rows of the terminal that shows the output; None where there is none."""
        try:
            return os.get_terminal_size(self._stdin if self._is_terminal else self._stdout)
        except OSError:
            return None  # none, or it hung up

    def describe(self) -> str:
        """Whether there is a terminal."""
        terminal = self._is_terminal or os.isatty(self._stdout)
        return "the terminal" if terminal else "standard input and output"

    def close(self) -> None:
        """Restore the mode and write what is buffered (at most 3 s without progress). Idempotent."""
        self.release()
        self._leave()
        self._writer.close(self._patience)
        self._in = self._out = -1
        atexit.unregister(self.release)
        while self._opened:
            os.close(self._opened.pop())

    def close_copy(self) -> None:
        """In a forked child: close what the fork has copied. The terminal's mode is the parent's."""
        atexit.unregister(self.release)
        if self._guard is not None:
            self._guard.close_copy()
        while self._opened:
            os.close(self._opened.pop())

    def release(self) -> None:
        """Restore the terminal's mode, if this job is in the foreground. Idempotent."""
        modes, self._modes = self._modes, None
        if modes is not None and self._in_foreground():
            _set_modes(self._stdin, modes)
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def stop_job(self) -> None:
        """SIGTSTP: restore the terminal's mode and stop as a job does; raw mode again when continued."""
        self.release()
        os.kill(os.getpid(), _SIGSTOP)
        self.continue_job()

    def continue_job(self) -> None:
        """SIGCONT: raw mode again, as the shell has set its own."""
        self._take_when_in_foreground()

    def _take_when_in_foreground(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._reader is None or self._loop is None:
            return
        if not self._is_terminal:
            self._reader.open(self._in)
        elif self._in_foreground():
            self._make_raw()
            self._reader.open(self._in)
        else:
            self._reader.close()
            self._timer = self._loop.call_later(_FOREGROUND_TICK, self._take_when_in_foreground)

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._stdin) == os.getpgrp()
        except OSError:
            return True  # not our controlling terminal: no job control on it

    def _make_raw(self) -> None:
        import termios as t

        try:
            modes = t.tcgetattr(self._stdin)
        except t.error:
            return  # hung up already
        if self._modes is None:  # else: raw, or set by the shell while we were stopped
            self._modes = [*modes[:6], list(modes[6])]
        modes[0] &= ~(
            t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON
        )  # iflag
        modes[2] = modes[2] & ~(t.CSIZE | t.PARENB) | t.CS8  # cflag
        modes[3] &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)  # lflag
        modes[6][t.VMIN], modes[6][t.VTIME] = 1, 0
        _set_modes(self._stdin, modes)
        if self._guard is None:
            from pyvmm.backends.terminal_guard import TerminalGuard

            try:
                self._guard = TerminalGuard(self._stdin, self._modes, t.tcgetattr(self._stdin))
            except t.error:
                pass  # hung up just now

    def _broken(self) -> None:
        if self._writer.problem != errno.EPIPE:
            problem = os.strerror(self._writer.problem)
            notice("standard output", f"standard output: {problem}; the guest's output is lost now")

    def _sift(self, data: bytes) -> bytes:
        """Carry out the escape sequences in *data*; returns the rest."""
        if not self._escaped and ESCAPE not in data:
            return data
        kept = bytearray()
        for key in data:
            if not self._escaped:
                if key == ESCAPE:
                    self._escaped = True
                else:
                    kept.append(key)
                continue
            self._escaped = False
            if key in b"xX":
                if self.on_quit is not None:
                    self.on_quit()
            elif key in b"hH?":
                breaks = _BREAK_HELP if self.on_break is not None else ""
                self._writer.write(f"\r\nCtrl-A x  {self.quit_help}{breaks}{_HELP}".encode())
            elif key in b"bB":
                if self.on_break is not None:
                    self.on_break()
            elif key in (ESCAPE, 0x61):
                kept.append(ESCAPE)
            else:  # no command: both keys are the guest's
                kept += bytes((ESCAPE, key))
        return bytes(kept)

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super()._leave()

    def _own(self, fd: int, flags: int) -> int:
        """*fd* opened once more, non-blocking for us alone; -1 where that cannot be."""
        own = open_again(fd, flags)
        if own >= 0:
            self._opened.append(own)
        return own


def _set_modes(fd: int, modes: list[object]) -> None:
    import termios

    try:
        termios.tcsetattr(fd, termios.TCSANOW, modes)  # type: ignore[arg-type]
    except termios.error:
        pass  # the terminal hung up
