"""The parent of a guest's VM processes, as the program that starts it sees it."""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys

from pyvmm.errors import StartError
from pyvmm.guest import vm_messages as messages
from pyvmm.host.child import FIRST_FD, start
from pyvmm.sandbox.link import MessageLink, pair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.guest.vm_messages import Setup

#: The program of the process. Its arguments are the module path, and those of ``vm_parent.main``.
_CODE = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from pyvmm.bundle import load
if not load():
    from pyvmm.bundle_writer import make
    make()
from pyvmm.guest.vm_parent import main
main(*map(int, sys.argv[2:]))
"""
#: Bytes typed that wait in the kernel; the program keeps what is more.
_TYPED = 4096
#: Seconds that the process gets to end with its guest.
_PATIENCE = 10.0
#: Seconds within which it tells how a VM process has ended.
_TELLS = 5.0


class SpawnedParent:
    """Starts the process. ``close`` ends it, and its VM process.

    Raises StartError when the host gives no process, or this interpreter has no program.
    """

    def __init__(self, setup: Setup) -> None:
        if not sys.executable:
            raise StartError(
                "this Python is part of another program: there is none to start for the guest; use "
                "Guest(in_process=True)"
            )
        ours, theirs = pair()
        #: The serial console of all machines: a stream socket.
        self.console, console = socket.socketpair()
        self.console.setblocking(False)
        self.console.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _TYPED)
        path = [str(entry) or os.getcwd() for entry in sys.path]
        arguments = [json.dumps(path), str(os.getpid()), *(str(FIRST_FD + index) for index in range(3))]
        flags = ["-I", "-S", *["-O"] * sys.flags.optimize, *["-B"] * sys.dont_write_bytecode]
        command = [sys.executable, *flags, "-c", _CODE, *arguments]
        file = os.memfd_create("guest", os.MFD_CLOEXEC)
        try:
            os.pwrite(file, pickle.dumps(setup), 0)
            self._child = start(command, os.environ, fds=(theirs.fileno(), console.fileno(), file), errors=2)
        except OSError as error:
            ours.close()
            self.console.close()
            raise StartError(f"the host gives no process for the guest: {error.strerror}") from None
        finally:
            os.close(file)
            theirs.close()
            console.close()
        self._link = MessageLink(ours)
        self._machines = 0
        self._closed = False

    def make_machine(self, link: int, stream: int, left: float | None) -> int:
        """Have a VM process made, which gets the sockets *link* and *stream* (-1: none); its number, from 1.

        :param left: seconds that the guest has left
        """
        if stream >= 0:
            self._link.send(messages.EXEC, stream)
        self._link.send(messages.MACHINE + (b"" if left is None else str(left).encode()), link)
        self._machines += 1
        return self._machines

    def kill_machine(self) -> None:
        """Kill the VM process. Any thread."""
        self._link.send(messages.KILL)

    def status(self, number: int) -> int | None:
        """How the VM process *number* ended: its exit status, minus the signal; None: that is not known."""
        while self._link.wait(_TELLS):
            found = self._link.receive()
            if found is None:
                continue
            if not found[0]:
                return None
            if found[0][:1] == messages.EXITED:
                which, _, status = found[0][1:].decode().partition(messages.SEPARATOR)
                if int(which) == number:
                    return int(status)
        return None

    def close(self) -> None:
        """End it, and wait for its end. Idempotent."""
        if not self._closed:
            self._closed = True
            self._link.send(messages.END)  # a process that this one has forked may have a copy of the link
            self._link.close()
            self.console.close()
            self._child.end(_PATIENCE)
