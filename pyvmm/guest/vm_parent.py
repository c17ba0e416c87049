"""The parent of the VM processes of a guest that a Python program drives: a process of one thread.

It opens what the guest has on the host, forks a VM process when the program asks for a machine, and kills it
when the program asks for that or is gone.
"""

from __future__ import annotations

import _socket
import os
import pickle

from pyvmm.backends.connected import ConnectedSocket
from pyvmm.errors import PyvmmError
from pyvmm.guest import vm_messages as messages
from pyvmm.loop import READ, Loop
from pyvmm.machine.host_side import HostSide
from pyvmm.sandbox.leftovers import Leftovers
from pyvmm.sandbox.link import KEEP, MessageLink
from pyvmm.sandbox.vm_process import fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.guest.vm_messages import Setup
    from pyvmm.sandbox.vm_process import Parent, VmProcess


def main(program: int, link: int, console: int, setup: int) -> None:
    """Serve a process until it ends.

    :param program: its number
    :param link: the descriptor of its SOCK_SEQPACKET socket, of messages
    :param console: the descriptor of a stream socket: the serial console of all machines
    :param setup: the descriptor of a file with a pickled ``Setup``
    """
    for fd in (link, console, setup):
        os.set_inheritable(fd, False)
    process = os.pidfd_open(program)
    if os.getppid() != program:
        return  # it is gone already
    with open(setup, "rb") as file:
        parent = GuestParent(_socket.socket(fileno=link), console, pickle.load(file))
    parent.serve(process)


class GuestParent:
    """Serves one program.

    :param link: the program's, of messages
    :param console: a stream socket: the serial console of all machines
    """

    def __init__(self, link: _socket.socket, console: int, setup: Setup) -> None:
        self._setup = setup
        self._loop = Loop()
        self._link = MessageLink(link)
        self._host_side = HostSide(setup.config, ConnectedSocket(console))
        self._opened = False
        self._leftovers = Leftovers()
        self._process: VmProcess | None = None
        self._exec_fd = -1
        self._machines = 0

    def serve(self, program: int) -> None:
        """Until the program closes its end of the link, or the process of the pidfd *program* ends."""
        loop = self._loop
        loop.add(program, READ, lambda events: loop.stop())
        self._link.serve(loop, self._received)
        try:
            loop.run()
        finally:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            self._host_side.close()

    def _received(self, message: bytes, fd: int) -> None:
        kind = message[:1]
        if kind == messages.EXEC:
            self._exec_fd = fd
        elif kind == messages.MACHINE:
            self._make(_socket.socket(fileno=fd), message[1:].decode())
        elif kind == messages.KILL:
            if self._process is not None:
                self._process.kill()
        else:  # END, or the program has closed its end
            self._loop.stop()

    def _make(self, end: _socket.socket, left: str) -> None:
        """A VM process for the next machine, whose program has the other end of *end*."""
        link = MessageLink(end)
        if self._process is not None:  # it has told of its machine's end
            self._process.kill()
            self._ended(0)
        self._machines += 1
        try:
            if self._opened:
                self._host_side.reopen()
            else:
                self._host_side.open()
                self._opened = True
            process, parent = fork(self._host_side.asks)
        except PyvmmError as error:
            name = f"{type(error).__module__}.{type(error).__name__}"
            link.send(messages.FAILED + messages.fields(name, str(error)))
            process = parent = None
        if parent is not None:
            self._be_vm_process(parent, link, float(left) if left else None)
        link.close()
        if self._exec_fd >= 0:
            os.close(self._exec_fd)
            self._exec_fd = -1
        if process is None:
            return
        self._process = process
        self._loop.add(process.fd, READ, self._ended)
        process.serve(self._loop, self._from_vm_process)
        self._leftovers.forget_descriptors()

    def _be_vm_process(self, parent: Parent, link: MessageLink, left: float | None) -> None:
        code = PyvmmError.exit_code
        try:
            self._loop.close()
            self._link.close()
            from pyvmm import bundle

            bundle.load_machine()
            from pyvmm.guest.vm_process import MachineProcess

            exec_fd, first = self._exec_fd, self._machines == 1
            MachineProcess(
                self._setup, self._host_side, self._leftovers, parent, link, exec_fd, left, first
            ).run()
            code = 0
        finally:
            os._exit(code)

    def _from_vm_process(self, message: bytes, fd: int) -> None:
        if fd >= 0:
            if message[:1] == KEEP:
                self._leftovers.keep(message[1:], fd)
            else:
                os.close(fd)  # it has no other to give

    def _ended(self, events: int) -> None:
        process, self._process = self._process, None
        assert process is not None, "it is served"
        self._loop.remove(process.fd)
        while (found := process.link.receive()) is not None and found[0]:
            self._from_vm_process(*found)
        status = process.wait()
        process.close()
        self._link.send(messages.EXITED + messages.fields(str(self._machines), str(status)))
