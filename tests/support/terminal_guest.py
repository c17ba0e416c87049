"""A process with a terminal, as ``pyvmm run`` is one; test_terminal_process runs it.

Its "guest" says READY, and answers each key with <key>. Arguments: ``raise`` raises out of the
loop at key e; ``background`` moves to a process group of its own first, which the
terminal does not have in the foreground, and comes to the foreground at SIGUSR1 to the parent.
"""

from __future__ import annotations

import os
import signal
import sys

from pyvmm.backends.terminal import Terminal
from pyvmm.loop import Loop
from pyvmm.signals import SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP, SignalFd


def in_background():
    """Fork; the child returns, in the background. The parent ends as the child does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        os.setpgid(0, 0)
        return
    signal.sigwait([signal.SIGUSR1])
    os.tcsetpgrp(0, child)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def main():
    if "background" in sys.argv:
        in_background()
    with Loop() as loop:
        terminal = Terminal(loop.stop)

        def receive(data):
            if "raise" in sys.argv and b"e" in data:
                raise RuntimeError("a defect")
            terminal.write(b"<%b>" % data)

        def stop(number):
            loop.stop()

        handlers = {SIGINT: stop, SIGTERM: stop, SIGHUP: stop}
        handlers[SIGTSTP] = lambda number: terminal.stop_job()
        handlers[SIGCONT] = lambda number: terminal.continue_job()
        with SignalFd(loop, handlers):
            terminal.attach(loop, receive, lambda: 16)
            terminal.write(b"READY")
            loop.run()
            terminal.close()
    sys.exit(3)


if __name__ == "__main__":
    main()
