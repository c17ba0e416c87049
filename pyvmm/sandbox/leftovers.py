"""What a VM process leaves of the host's objects for the VM process of the guest's next machine.

The bytes go from the one to the other by an anonymous file that their parent holds and never reads;
descriptors, by messages (``link.KEEP``).
"""

from __future__ import annotations

import os

from pyvmm.sandbox.link import KEEP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from pyvmm.sandbox.link import MessageLink

    class Leaving(Protocol):
        """The methods of ``backends.host_objects.HostObject``, which says what these are."""

        def left(self) -> tuple[bytes, int]:
            """What it leaves."""

        def give(self, left: bytes, fd: int) -> None:
            """What the one before has left."""


#: Bytes of each number in the file: its own size, and of each object its number and the size of what it left.
_FIELD = 4
#: Bytes of all that is left at most.
_LIMIT = 64 << 20
_MOST_FDS = 64


class Leftovers:
    """Made by the parent before it forks. Raises OSError when the host has no memory or descriptors."""

    #: Bytes that its file may have at most.
    largest_file = _LIMIT

    def __init__(self) -> None:
        self._file = os.memfd_create("leftovers", os.MFD_CLOEXEC)
        self._fds: dict[int, int] = {}  # in the parent, by the number of the object

    def write(self, objects: Iterable[Leaving], parent: MessageLink) -> None:
        """In a VM process at its end: what *objects* have left. Raises OSError."""
        at = _FIELD
        for number, one in enumerate(objects):
            data, fd = one.left()
            if fd >= 0:
                parent.send(KEEP + number.to_bytes(_FIELD, "little"), fd)
            if data:
                head = number.to_bytes(_FIELD, "little") + len(data).to_bytes(_FIELD, "little")
                at += os.pwrite(self._file, head + data, at)
        os.pwrite(self._file, at.to_bytes(_FIELD, "little"), 0)

    def keep(self, message: bytes, fd: int) -> None:
        """In the parent: *fd*, its own from now on, came with *message*, the rest of a KEEP."""
        number = int.from_bytes(message, "little")
        if number in self._fds or len(self._fds) == _MOST_FDS:
            os.close(fd)
        else:
            self._fds[number] = fd

    def give(self, objects: Iterable[Leaving]) -> None:
        """In the next VM process, before its machine is built. Raises OSError."""
        size = int.from_bytes(os.pread(self._file, _FIELD, 0), "little")
        data = os.pread(self._file, min(size, _LIMIT), 0)[_FIELD:]
        found = {}
        while len(data) > 2 * _FIELD:
            number, size = (int.from_bytes(data[at : at + _FIELD], "little") for at in (0, _FIELD))
            found[number] = data[2 * _FIELD : 2 * _FIELD + size]
            data = data[2 * _FIELD + size :]
        for number, one in enumerate(objects):
            one.give(found.get(number, b""), self._fds.pop(number, -1))

    def forget_descriptors(self) -> None:
        """In the parent, after the fork: the VM process has them."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def close(self) -> None:
        """After the last VM process."""
        self.forget_descriptors()
        os.close(self._file)
