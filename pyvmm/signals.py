"""Signals as callbacks of the event loop: signalfd(2) and pthread_sigmask(3) through ctypes.

The standard ``signal`` module costs an import of ``enum`` at start-up and sets handlers from the
main thread only. Here the signals are blocked, so that none interrupts a system call, and
the loop reads them. Threads started afterwards inherit the block, and so do child processes:
``SignalFd.unblock_here`` is for those.
"""

from __future__ import annotations

import _signal  # without the enums of ``signal``
import ctypes
import os

from pyvmm.errors import PyvmmError, StartError
from pyvmm.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pyvmm.loop import Loop

# Numbers of <asm-generic/signal.h>, the same on x86-64 and arm64.
SIGHUP = 1
SIGINT = 2
SIGQUIT = 3
SIGABRT = 6
SIGUSR1 = 10
SIGUSR2 = 12
SIGALRM = 14
SIGTERM = 15
SIGSTKFLT = 16
SIGCONT = 18
SIGSTOP = 19
SIGTSTP = 20
SIGTTOU = 22
SIGXCPU = 24
SIGVTALRM = 26
SIGPROF = 27
SIGWINCH = 28
SIGIO = 29
SIGPWR = 30

#: Every signal that by default ends a process (signal(7)), that another process or the kernel sends, and
#: that can be handled. Not among them: SIGKILL; SIGPIPE and SIGXFSZ, which Python ignores; those of a fault
#: of this process; real-time signals.
ENDING = (
    SIGHUP,
    SIGINT,
    SIGQUIT,
    SIGABRT,
    SIGUSR1,
    SIGUSR2,
    SIGALRM,
    SIGTERM,
    SIGSTKFLT,
    SIGXCPU,
    SIGVTALRM,
    SIGPROF,
    SIGIO,
    SIGPWR,
)

#: True in a process whose end follows that of its SignalFd: the signals stay blocked then, so that none that
#: comes late ends the process in another way.
end_follows = False

_SIG_BLOCK = 0
_SIG_SETMASK = 2
_SFD_CLOEXEC = 0o2000000
_SFD_NONBLOCK = 0o4000
_SIGSET_SIZE = 128  # sizeof(sigset_t) in glibc and musl
_SIGINFO_SIZE = 128  # sizeof(struct signalfd_siginfo); ssi_signo is its first word

_libc = ctypes.CDLL(None, use_errno=True)


class SignalFd:
    """Blocks the signals of *handlers* in this thread and calls ``handler(number)`` from the loop.

    Made before any other thread starts, in the thread that runs the loop. Raises StartError when
    the host gives no descriptor, PyvmmError when it does not change the mask. ``close`` drops what is still
    pending and restores the mask.
    """

    def __init__(self, loop: Loop, handlers: Mapping[int, Callable[[int], object]]) -> None:
        self._loop = loop
        self._handlers = dict(handlers)
        wanted = _sigset(self._handlers)
        self._old = _change_mask(_SIG_BLOCK, wanted)
        self._fd = int(_libc.signalfd(-1, wanted, _SFD_NONBLOCK | _SFD_CLOEXEC))
        if self._fd < 0:
            problem = os.strerror(ctypes.get_errno())
            _change_mask(_SIG_SETMASK, self._old)
            raise StartError(f"no descriptor for signals: {problem}; raise the limit of files (ulimit -n)")
        loop.add(self._fd, READ, self._deliver)

    def __enter__(self) -> SignalFd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Restore the signal mask of the calling thread, the one that made this, unless ``end_follows``.

        Idempotent.

        Raises PyvmmError when the kernel refuses.
        """
        if self._fd < 0:
            return
        self._loop.remove(self._fd)
        self._read()  # else a signal that came during shutdown kills the process just below
        os.close(self._fd)
        self._fd = -1
        if not end_follows:
            _change_mask(_SIG_SETMASK, self._old)

    def close_copy(self) -> None:
        """In a forked child: close what the fork has copied. The signals stay blocked there."""
        os.close(self._fd)
        self._fd = -1

    def unblock_here(self) -> None:
        """Restore the former mask in the calling thread: for a child between fork and exec.

        Raises PyvmmError when the kernel refuses.
        """
        _change_mask(_SIG_SETMASK, self._old)

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, 16 * _SIGINFO_SIZE)
        except BlockingIOError:
            return b""

    def _deliver(self, events: int) -> None:
        information = self._read()
        for at in range(0, len(information), _SIGINFO_SIZE):
            number = int.from_bytes(information[at : at + 4], "little")
            self._handlers[number](number)


def name_of(number: int) -> str:
    """The name of signal *number*, 1 to 64: ``SIGTERM`` for 15. Raises ValueError for one without a name."""
    from signal import Signals

    return Signals(number).name


def heard(*numbers: int) -> list[int]:
    """Those of the signals that are not ignored in this process, as nohup(1) ignores SIGHUP."""
    return [number for number in numbers if _signal.getsignal(number) != _signal.SIG_IGN]


def _sigset(numbers: Iterable[int]) -> ctypes.Array[ctypes.c_char]:
    mask = 0
    for number in numbers:
        mask |= 1 << number - 1
    return ctypes.create_string_buffer(mask.to_bytes(_SIGSET_SIZE, "little"), _SIGSET_SIZE)


def _change_mask(how: int, new: ctypes.Array[ctypes.c_char]) -> ctypes.Array[ctypes.c_char]:
    old = ctypes.create_string_buffer(_SIGSET_SIZE)
    number = _libc.pthread_sigmask(how, new, old)
    if number:
        raise PyvmmError(f"pthread_sigmask failed: {os.strerror(number)}; signals cannot be handled here")
    return old
