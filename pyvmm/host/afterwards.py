"""What is left to do on the host when this process has ended, done by another one.

For a process that gives up the file system and has a socket to remove at its end. The other one is forked
before: it has a pipe and nothing else open, and waits for the pipe's end.
"""

from __future__ import annotations

import os

from pyvmm.host.descriptors import close_all_but

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def afterwards(action: Callable[[], object]) -> Callable[[], None]:
    """Have *action* carried out when this process ends, however it does.

    Calling what is returned has it carried out at once, and waits for that; once only. This process must have
    one thread now. Raises OSError.
    """
    end, ours = os.pipe2(os.O_CLOEXEC)
    done, theirs = os.pipe2(os.O_CLOEXEC)
    if not os.fork():
        try:
            os.setsid()  # neither signals of the terminal's nor job control are for it
            close_all_but((end, theirs))
            os.read(end, 1)
            action()
        finally:
            os._exit(0)
    os.close(end)
    os.close(theirs)

    def now() -> None:
        os.close(ours)
        os.read(done, 1)
        os.close(done)

    return now
