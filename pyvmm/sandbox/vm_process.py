"""The process that has a guest's machine, and its parent's hold on it.

Sources: prctl(2), PR_SET_PDEATHSIG; pidfd_open(2).
"""

from __future__ import annotations

import os

from pyvmm.errors import PyvmmError, StartError
from pyvmm.host import rights
from pyvmm.host.libc import function
from pyvmm.loop import READ
from pyvmm.sandbox.link import ENDED, LIMIT, MessageLink, pair

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

    from pyvmm.loop import Loop

#: Requests that are carried out in one turn of the loop.
_BATCH = 16
_PR_SET_PDEATHSIG = 1
_SIGKILL = 9
_SEPARATOR = "\0"
#: Seconds that the VM process waits until its parent has given up the guest's name.
_PATIENCE = 1.0


class Parent:
    """The parent as the VM process sees it.

    :param pid: its process, which the user knows
    """

    def __init__(self, pid: int, link: MessageLink) -> None:
        self.pid = pid
        self.link = link

    def end_with_it(self) -> None:
        """Have the kernel kill this process when the parent ends; again after a change of user (prctl(2))."""
        if function("prctl")(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0) or os.getppid() != self.pid:
            os._exit(PyvmmError.exit_code)  # the parent is gone already

    def ended(self, values: tuple[str, ...]) -> None:
        """Tell that the guest has ended, what its devices had on the host is closed, and how: by *values*.

        Returns when no other process can find the guest any more, or after a second.
        """
        room = LIMIT - len(ENDED) - len(values)
        record = _SEPARATOR.join(value.replace(_SEPARATOR, " ") for value in values).encode(errors="replace")
        if not self.link.send(ENDED + record[:room]):
            return
        self.link.wait(_PATIENCE)


class VmProcess:
    """The VM process as its parent sees it.

    :param pid: its number, a child of this process that was not waited for
    :param requests: by which it asks for what ``host.broker`` offers; None: it asks for nothing
    """

    def __init__(self, pid: int, link: MessageLink, requests: _socket.socket | None) -> None:
        self.pid = pid
        self.link = link
        self._requests = requests
        self._loop: Loop | None = None
        #: Readable once the process has ended.
        self.fd = os.pidfd_open(pid)
        #: What ``wait`` found: its exit status, minus the signal that ended it.
        self.status: int | None = None

    def serve(self, loop: Loop, receive: Callable[[bytes, int], object]) -> None:
        """Give its messages to *receive*, as ``MessageLink.serve``, and carry out its requests."""
        self.link.serve(loop, receive)
        if self._requests is not None:
            self._loop = loop
            loop.add(self._requests.fileno(), READ, self._requested)

    def _requested(self, events: int) -> None:
        from pyvmm.host import broker

        assert self._requests is not None
        for _ in range(_BATCH):
            try:
                message, fd = rights.receive(self._requests, broker.LIMIT)
            except BlockingIOError:
                return
            except OSError:
                message, fd = b"", -1
            if not message:
                self._ignore_requests()
                return
            broker.answer(self._requests, message, fd)

    def _ignore_requests(self) -> None:
        if self._loop is not None and self._requests is not None:
            self._loop.remove(self._requests.fileno())
            self._loop = None

    def kill(self) -> None:
        """End it, whatever it does."""
        if self.status is None:
            os.kill(self.pid, _SIGKILL)

    def wait(self) -> int:
        """Its exit status, minus the signal that ended it; waits for its end. Idempotent."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def close(self) -> None:
        """Listen to it no more; it may go on. Idempotent."""
        self.link.close()
        self._ignore_requests()
        if self._requests is not None:
            self._requests.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def fork(requests: bool = False) -> tuple[VmProcess | None, Parent | None]:
    """Make the VM process: returns twice, in the parent with the first, in the VM process with the second.

    Called in a process with one thread. The VM process is killed when its parent ends. It has all
    descriptors and blocked signals of the parent; with *requests* its offers (``host.broker``) are the
    parent's to carry out. Raises StartError when the host gives no process.
    """
    ours = os.getpid()
    asked = asking = None
    try:
        parents, childs = pair()
        if requests:
            asked, asking = pair()
        pid = os.fork()
    except OSError as error:
        raise StartError(
            f"the host gives no process for the guest: {error.strerror}; raise the limit of processes "
            "(ulimit -u)"
        ) from None
    if pid:
        childs.close()
        if asking is not None and asked is not None:
            asking.close()
            asked.setblocking(False)
        return VmProcess(pid, MessageLink(parents), asked), None
    parents.close()
    parent = Parent(ours, MessageLink(childs))
    parent.end_with_it()
    if asking is not None and asked is not None:
        from pyvmm.host import broker

        asked.close()
        asking.setblocking(False)
        broker.use(asking)
    return None, parent
