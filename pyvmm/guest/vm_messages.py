"""The messages between a program, its guest's parent process and the VM processes.

Each is a datagram of a socket pair (``sandbox.link``): a byte of its kind, and what follows. Fields of a text
are separated by zero bytes.
"""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import Config

# From the program to the parent.
#: The VM process's end of the exec channel comes with it: for the next MACHINE.
EXEC = b"x"
#: Make a VM process; its end of the link comes with it. The seconds that the guest has left, or nothing.
MACHINE = b"m"
#: Kill the VM process.
KILL = b"k"
#: The guest is over: kill the VM process and end.
END = b"e"

# From the parent to the program.
#: A VM process has ended: which, from 1, and its exit status, minus the signal that ended it.
EXITED = b"d"

# From the program to a VM process.
START = b"s"
PAUSE = b"p"
RESUME = b"r"
BUTTON = b"b"
#: End the machine: reason and detail of the ending.
STOP = b"q"
#: What have the consoles shown?
LOG = b"l"

# From a VM process, or from the parent in its place, to the program.
#: The machine is built, and waits for START.
BUILT = b"B"
#: It is not built, or not started: the class of the error and its text.
FAILED = b"F"
#: The guest runs.
STARTED = b"S"
#: PAUSE or RESUME is done.
DONE = b"D"
#: A part of what the consoles have shown; an empty one is the last.
LOGGED = b"L"
#: A record of ``logging``: its level, its logger's name, its text.
REPORT = b"R"
#: The machine has ended: code, reason, how that is known, detail.
ENDED = b"E"

#: Between the fields of a message.
SEPARATOR = "\0"


class Setup(NamedTuple):
    """What the parent needs to know of a guest.

    :param config: the configuration
    :param commands: whether its machines have a channel for commands
    :param console_shell: as for ``Machine``
    :param kvm_path: the KVM device
    :param sandbox: one of ``sandbox.mode.MODES``
    """

    config: Config
    commands: bool
    console_shell: bool
    kvm_path: str
    sandbox: str


def fields(*values: str) -> bytes:
    """A message's text of *values*, at most 4000 bytes of it."""
    return SEPARATOR.join(value.replace(SEPARATOR, " ") for value in values).encode(errors="replace")[:4000]
