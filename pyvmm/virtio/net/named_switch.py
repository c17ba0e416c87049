"""A card on a switch that was asked for by its name, which joins the cards of one process alone.

Two processes that use one name are not joined, and each finds that nobody answers. So a process that has
cards on a switch of that name holds a record lock (lockf(3)) on one byte of a file in this user's runtime
directory. The kernel ends it with its process, and a child that is forked does not inherit it. Where the file
cannot be used, nothing is told.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections import Counter

from pyvmm.host.digest import digest
from pyvmm.host.notice import notice
from pyvmm.host.private import runtime_directory
from pyvmm.virtio.net.device import Net

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.backends.net.base import NetBackend

#: Seconds of a guest's driver after which its process is taken to have no further card to add to the switch.
PATIENCE = 5.0
#: The file, in the runtime directory ``pyvmm``.
FILE = "switches"


class NamedSwitchCard(Net):
    """A Net whose *backend* is a port of the switch called *switch*; *keys* are those of Net.

    Reports, once a process and switch, that it is alone there while another process has such a switch.
    """

    def __init__(self, backend: NetBackend, switch: str, **keys: Any) -> None:
        super().__init__(backend, **keys)
        self._switch = switch
        self._switches = _of_this_process()
        self._switches.add(switch)
        self._counted = True

    def started(self) -> None:
        """As Net's."""
        super().started()
        self.runtime.later(PATIENCE, self._check)

    def _check(self) -> None:
        if self._switches.divided(self._switch):
            tell_alone(self._switch)

    def close(self) -> None:
        """As Net's."""
        super().close()
        if self._counted:
            self._counted = False
            self._switches.remove(self._switch)


def tell_alone(switch: str) -> None:
    """Report that this process has one card on *switch*: nobody can reach it. Once a process and switch."""
    told = _of_this_process().told
    if switch not in told:
        told.add(switch)
        notice(
            "card alone on a switch",
            f"--net switch:{switch} joins the cards of one process, and this process has no other on that "
            "switch; to join two processes give both --net link:PATH, or each a tap in one bridge",
        )


class _Switches:
    """The switches that this process has cards on, and its locks. Any thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        #: Those of which it was reported that a card is alone there.
        self.told: set[str] = set()
        self._cards: Counter[str] = Counter()
        self._held: set[str] = set()
        self._file = -1
        self._lock = allocate_lock()

    def add(self, switch: str) -> None:
        """This process has one more card on *switch*."""
        with self._lock:
            self._cards[switch] += 1
            self._is_elsewhere(switch)

    def remove(self, switch: str) -> None:
        """It has one less."""
        with self._lock:
            self._cards[switch] -= 1
            if not self._cards[switch]:
                del self._cards[switch]
                if switch in self._held:
                    self._held.remove(switch)
                    self._lockf(switch, os.F_ULOCK)
            if not self._cards and self._file >= 0:
                os.close(self._file)
                self._file = -1

    def divided(self, switch: str) -> bool:
        """Whether this process has one card on *switch*, and another process has cards on its own."""
        with self._lock:
            return self._cards[switch] == 1 and self._is_elsewhere(switch)

    def _is_elsewhere(self, switch: str) -> bool:
        """Take the lock of *switch*; True when another process has it."""
        if switch not in self._held:
            try:
                self._lockf(switch, os.F_TLOCK)
            except BlockingIOError:
                return True
            except OSError:
                return False
            self._held.add(switch)
        return False

    def _lockf(self, switch: str, command: int) -> None:
        """Carry *command* out on the byte that belongs to *switch*. Raises OSError."""
        if self._file < 0:
            path = os.path.join(runtime_directory("pyvmm"), FILE)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        name = digest(switch.encode("utf-8", "surrogatepass"))
        os.lseek(self._file, int.from_bytes(name[:4], "little"), os.SEEK_SET)
        os.lockf(self._file, command, 1)


_switches = _Switches()


def _of_this_process() -> _Switches:
    """The switches of this process, which a child that it forks does not have."""
    global _switches
    if _switches.pid != os.getpid():
        _switches = _Switches()
    return _switches
