"""Puts a terminal back when this process ends in a way that lets it do nothing itself: SIGKILL, a crash.

A shell waits for a pipe's end, which the kernel closes with the process. It runs in a process group of its
own, so that what is sent to this one does not reach it. There it is in the background, where SIGTTOU would
stop it (credentials(7)): it is ignored, as is SIGHUP.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Only a terminal that still has the modes that were set here is put back: by then somebody else may use it.
_SCRIPT = 'trap "" HUP TTIN TTOU; read -r line <&3; [ "$(stty -g)" = "$1" ] && stty "$0"'
_PIPE_FD = 3
_SIGKILL = 9
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class TerminalGuard:
    """Sets the terminal *fd* to the modes *before* if this process ends before ``close``.

    :param before: what ``termios.tcgetattr`` returned
    :param now: the same, after the modes were changed

    Without /bin/sh and stty(1), nothing is done.
    """

    def __init__(self, fd: int, before: list[Any], now: list[Any]) -> None:
        self._process = 0
        pipe, self._held = os.pipe()
        try:
            self._process = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _SCRIPT, _stty(before), _stty(now)],
                {"PATH": os.environ.get("PATH", _PATH)},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, fd, 0),
                    (os.POSIX_SPAWN_DUP2, pipe, _PIPE_FD),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_RDWR, 0),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setpgroup=0,
                setsigmask=(),
            )
        except OSError:
            os.close(self._held)
        finally:
            os.close(pipe)

    def close(self) -> None:
        """The terminal has been put back, or is not to be. Idempotent."""
        process, self._process = self._process, 0
        if not process:
            return
        os.kill(process, _SIGKILL)
        os.waitpid(process, 0)
        os.close(self._held)

    def close_copy(self) -> None:
        """In a forked child: its end is not to be waited for."""
        if self._process:
            os.close(self._held)


def _stty(modes: list[Any]) -> str:
    """The text that ``stty -g`` prints for *modes*."""
    characters = [one if isinstance(one, int) else one[0] for one in modes[6]]
    return ":".join(f"{number:x}" for number in (*modes[:4], *characters))
