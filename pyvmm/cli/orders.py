"""What the parent of a VM process passes on to it, and what the VM process tells when its guest has ended."""

from __future__ import annotations

from pyvmm.sandbox.link import BREAK, CLIENT, ENDING, SIGNAL, STOP
from pyvmm.signals import SIGCONT, SIGTSTP, SIGWINCH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.cli.job import JobControl
    from pyvmm.guest.control import ControlServer
    from pyvmm.loop import Loop
    from pyvmm.machine.ending import Ending
    from pyvmm.machine.host_side import HostSide
    from pyvmm.sandbox.vm_process import Parent


class Orders:
    """Takes the messages of *parent* from *loop*, which runs after a machine is built. Loop's thread.

    :param job: gets SIGTSTP and SIGCONT
    :param resized: called for SIGWINCH
    :param signalled: called with the number of any other signal, which ends a process
    :param stopped: called with the reason when the machine is to end
    :param broken: called when the user sends a break by a key
    :param server: makes the control server of a guest of that name, for its first client
    """

    def __init__(
        self,
        loop: Loop,
        parent: Parent,
        *,
        job: JobControl,
        resized: Callable[[], object],
        signalled: Callable[[int], object],
        stopped: Callable[[str], object],
        broken: Callable[[], object] | None = None,
        server: Callable[[str], ControlServer],
    ) -> None:
        self._parent = parent
        self._job = job
        self._resized = resized
        self._signalled = signalled
        self._stopped = stopped
        self._broken = broken
        self._make_server = server
        self._server: ControlServer | None = None
        parent.link.serve(loop, self._received)

    def ending(self, ending: Ending) -> None:
        """Tell the parent that the machine is ending because somebody asked for it: so it is to end."""
        self._parent.link.send(ENDING + f"{ending.reason}\0{ending.detail}".encode())

    def ended(
        self,
        ending: Ending,
        host_side: HostSide,
        *,
        status: int | None = None,
        linger: bool = False,
        left: float | None = None,
        last: bool = True,
    ) -> None:
        """Tell the parent how the machine ended, then the clients of its control server, and hang up on them.

        :param status: the exit status of the command of ``--exec``
        :param linger: whether this process goes on for some milliseconds, for which nobody need wait
        :param left: how many seconds the guest has left, where it has a limit
        :param last: whether the guest has ended, too: *host_side* is released, its clients are told
        """
        command = "" if status is None else str(status)
        rest = "linger" if linger else "", "" if left is None else str(left)
        self._parent.ended((str(ending.code), command, *rest, ending.reason, ending.known, ending.detail))
        if self._server is not None:
            if last:
                host_side.close_copy()  # else this process would keep an image locked, say
            self._server.close(ending if last else None)

    def _received(self, message: bytes, fd: int) -> None:
        kind, rest = message[:1], message[1:]
        if kind == SIGNAL:
            self._signal(rest[0])
        elif kind == STOP:
            self._stopped(rest.decode())
        elif kind == BREAK:
            if self._broken is not None:
                self._broken()
        elif kind == CLIENT:
            if self._server is None:
                self._server = self._make_server(rest.decode())
            self._server.serve(fd)

    def _signal(self, number: int) -> None:
        if number == SIGTSTP:
            self._job.stop()
        elif number == SIGCONT:
            self._job.go_on()
        elif number == SIGWINCH:
            self._resized()
        else:
            self._signalled(number)
