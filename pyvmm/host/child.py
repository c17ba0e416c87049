"""Helper programs: started with the descriptors that they are given and no way to more privileges.

A helper reads what a guest, an image or the network made, so it must hold nothing that it does not need:
neither a tap that this process was started with nor what the environment tells.

prlimit(1), of util-linux, has it dump no core; setpriv(1) sets PR_SET_NO_NEW_PRIVS and PR_SET_PDEATHSIG
(prctl(2)): nothing of Python's may run between fork and exec in a process with threads. The kernel sends the
second one's signal when the thread that made the child ends, so it is set by the main thread alone, which
lives as long as the process. Where there is no setpriv, and in other threads, a helper that works ends with
its connection.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
from threading import get_native_id

from pyvmm.host.descriptors import inheritable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The number that the first of the descriptors given has in the child; the others follow it.
FIRST_FD = 3
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What a helper says is the same in every language of the user's.
_LANG = "C.UTF-8"
_SETPRIV = "setpriv"
_PRLIMIT = "prlimit"
#: Signals that this process may ignore, or Python does: a helper does what they usually do.
_ORDINARY = (signal.SIGPIPE, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)


class Child:
    """A helper that ``spawn`` has started; only one thread at a time waits for it.

    :param pid: its process
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        #: Its exit status, minus the signal that killed it; None while it runs or was not waited for.
        self.status: int | None = None
        self._fd = os.pidfd_open(pid)

    def wait(self, seconds: float) -> int | None:
        """Its ``status``; None when it has not ended *seconds* later."""
        if self.status is None:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            if poll.poll(seconds * 1000):
                self._reap()
        return self.status

    def end(self, seconds: float) -> None:
        """Wait until it has ended, and kill it when it has not *seconds* later. Idempotent."""
        if self.wait(seconds) is None:
            os.kill(self.pid, signal.SIGKILL)
            self._reap()

    def _reap(self) -> None:
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._fd)


def spawn(
    arguments: Sequence[str],
    *,
    fds: Sequence[int] = (),
    output: int | None = None,
    errors: int | None = None,
    keep: Sequence[str] = (),
) -> Child:
    """Start the program of *arguments* in a session of its own, with no signal blocked.

    Its environment has PATH, LANG and those variables of this process that *keep* names. A Ctrl-C on the
    terminal is not for it. Called in the main thread, it is killed when this process ends.

    :param fds: its descriptors from ``FIRST_FD`` on
    :param output: its standard output, a descriptor of this process; by default /dev/null, as is its input
    :param errors: its standard error

    Raises FileNotFoundError when there is no such program, and OSError when it cannot be started: EMFILE also
    when this process was given a descriptor beyond its limit, which nothing could close in the child.
    """
    program = shutil.which(arguments[0])
    if program is None:
        raise FileNotFoundError(arguments[0])
    environment = {"PATH": os.environ.get("PATH", _PATH), "LANG": _LANG}
    environment |= {name: os.environ[name] for name in keep if name in os.environ}
    command = [*_limits(), *_setpriv(), program, *arguments[1:]]
    return start(command, environment, fds=fds, output=output, errors=errors)


def start(
    command: list[str],
    environment: Mapping[str, str],
    *,
    fds: Sequence[int] = (),
    output: int | None = None,
    errors: int | None = None,
) -> Child:
    """Start *command* with *environment*, in a session of its own. Raises OSError.

    :param fds: its descriptors from ``FIRST_FD`` on
    :param output: its standard output, a descriptor of this process; by default /dev/null, as is its input
    :param errors: its standard error, a descriptor of this process; by default /dev/null
    """
    given = {1: output, 2: errors, **dict(enumerate(fds, FIRST_FD))}
    last = max(given)
    actions: list[tuple[object, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)]
    copies: list[int] = []
    try:
        # Copies have numbers above all targets: no dup2 overwrites the source of a later one.
        for target, fd in given.items():
            source = 0 if fd is None else _copy_above(fd, last, copies)
            actions.append((os.POSIX_SPAWN_DUP2, source, target))
        more = [fd for fd in inheritable() if fd not in given]
        if max(more, default=-1) >= os.sysconf("SC_OPEN_MAX") > 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        actions += [(os.POSIX_SPAWN_CLOSE, fd) for fd in more]
        return Child(
            os.posix_spawn(
                command[0],
                command,
                environment,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_ORDINARY,
            )
        )
    finally:
        for fd in copies:
            os.close(fd)


def _limits() -> list[str]:
    """The command that has the one that follows it dump no core, which would have what it reads."""
    program = shutil.which(_PRLIMIT)
    return [] if program is None else [program, "--core=0:0"]


def _setpriv() -> list[str]:
    """The command that takes privileges from the one that follows it; none where it is not there."""
    program = shutil.which(_SETPRIV)
    if program is None or os.path.basename(os.path.realpath(program)) != _SETPRIV:  # busybox's has less
        return []
    command = [program, "--no-new-privs"]
    if get_native_id() == os.getpid():  # the main thread
        command.append("--pdeathsig=KILL")
    return [*command, "--"]


def _copy_above(fd: int, last: int, copies: list[int]) -> int:
    """A copy of *fd* with a number above *last*; all that were made for it go to *copies*."""
    while True:
        fd = os.dup(fd)
        copies.append(fd)
        if fd > last:
            return fd
