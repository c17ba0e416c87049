"""Starts a program that reaches no file, network or process but what it is given: ``restricted(...)``.

For a helper that reads what nobody vouches for and has no sandbox of its own, such as qemu-nbd. It is started
by an interpreter that gives up the rest first: Landlock for files, TCP and signals, a network namespace where
that is allowed, capabilities, limits, and a filter of system calls (``host/helper_filter.py``). What the
kernel does not have is left out, and the program starts all the same.
"""

from __future__ import annotations

import json
import os
import sys

from pyvmm.host import helper_filter, interpreter, limits
from pyvmm.host.landlock import (
    EXECUTE,
    IOCTL_DEV,
    MAKE_REG,
    READ_DIR,
    READ_FILE,
    REMOVE_FILE,
    TRUNCATE,
    WRITE_FILE,
    LandlockError,
    Ruleset,
)
from pyvmm.host.libc import function
from pyvmm.host.privileges import dies_with_parent, end_with_parent, no_bounding_capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: Where programs, their libraries and what these read at their start are.
_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store")
_SETTINGS = ("/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_CAP_DAC_OVERRIDE = 1
#: Descriptors that a program may have besides those that it is given.
_DESCRIPTORS = 64
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def restricted(
    command: Sequence[str],
    *,
    reads: Sequence[int] = (),
    writes: Sequence[int] = (),
    folders: Sequence[str] = (),
    alone: bool = False,
) -> list[str]:
    """The command that starts *command* with nothing but its descriptors and these files.

    For this process to start. Should it be killed before the kernel knows that the other is to be killed with
    it (PR_SET_PDEATHSIG), the other ends instead.

    :param reads: the numbers of descriptors in the child whose files it may open anew, to read
    :param writes: likewise, to read and write
    :param folders: directories in which it may make files, read, write and remove them
    :param alone: it starts no process, executes no other program, and makes no socket
    """
    task = {"command": [*command], "reads": [*reads], "writes": [*writes], "folders": [*folders]}
    task["alone"], task["parent"] = alone, os.getpid()
    return interpreter.command(__name__, task)


def main(text: str) -> None:
    """Give up what the task *text*, made by ``restricted``, does not name, and become its program.

    Ends the process with one line on standard error where the host refuses something that is needed.
    """
    task = json.loads(text)
    try:
        _become(task)
    except OSError as error:
        sys.exit(f"the program cannot be confined and started: {error.strerror or error}")
    except RuntimeError:  # start_new_thread
        sys.exit(
            "the program cannot be confined and started: this host gives it no thread; raise the limit of "
            "processes (ulimit -u)"
        )


def _become(task: dict[str, Any]) -> None:
    """Carry out *task*. Raises OSError."""
    _leave_the_network()
    if dies_with_parent() and os.getppid() != task["parent"]:
        sys.exit("the process that it was for has ended")
    fds = [*task["reads"], *task["writes"]]
    _give_up_capabilities([*map(os.fstat, fds), *map(os.stat, filter(os.path.exists, task["folders"]))])
    limits.limit(descriptors=_DESCRIPTORS)
    try:
        rules = Ruleset()
        for path in (*_PROGRAMS, os.path.dirname(os.path.realpath(task["command"][0]))):
            rules.allow(path, EXECUTE | READ_FILE | READ_DIR)
        for path in _SETTINGS:
            rules.allow(path, READ_FILE)
        for path in _DEVICES:
            rules.allow(path, READ_FILE | WRITE_FILE)
        for fd in task["reads"]:
            rules.allow_open(fd, READ_FILE | IOCTL_DEV)
        for fd in task["writes"]:
            rules.allow_open(fd, READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV)
        for path in task["folders"]:
            rules.allow(path, READ_FILE | WRITE_FILE | TRUNCATE | MAKE_REG | REMOVE_FILE | READ_DIR)
        rules.enforce()
    except LandlockError:
        pass  # as above
    helper_filter.execute(task["command"], alone=task["alone"])


def _give_up_capabilities(files: list[os.stat_result]) -> None:
    """All of root's, but to open *files* that are another user's; an ordinary user's program has none."""
    others = any(file.st_uid != os.geteuid() for file in files)
    try:
        no_bounding_capabilities([_CAP_DAC_OVERRIDE] if others and not os.geteuid() else [])
    except OSError:
        pass  # an ordinary user without a user namespace


def _leave_the_network() -> None:
    """A network namespace of its own, empty, where that is allowed."""
    dies = dies_with_parent()
    # Without privileges this needs a user namespace, where root may not open others' files.
    function("unshare")(_CLONE_NEWNET | (_CLONE_NEWUSER if os.geteuid() else 0))
    if dies:  # a new user namespace forgets it
        end_with_parent()
