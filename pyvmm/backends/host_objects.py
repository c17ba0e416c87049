"""What a guest has on the host behind its devices: as old as the guest, not as one of its machines."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator
    from typing import TypeVar

    Opened = TypeVar("Opened", bound="HostObject")


class HostObject:
    """A pty, a socket, a log, a disk image, a tap: what one device has on the host.

    ``open`` makes it. The device of each machine attaches it to its event loop, by the ``attach`` that its
    kind has, and ``detach`` ends that. ``close`` releases it. What one machine leaves for the next is kept in
    the object: a client, input that the guest has not taken, output that the other end has not.
    """

    #: Bytes that a file which it writes to may have at most; 0: it writes to none of this host's.
    largest_file = 0
    #: True: ``close`` is called by whoever opened it, after the last machine; False: by its device.
    kept = False

    def open(self) -> None:
        """Make or open on the host what the constructor has only named. Idempotent until ``close``.

        Raises StartError, also for a path that is taken or cannot be had.
        """

    def drain(self) -> None:
        """After ``detach``, in the process of the last machine: write what is buffered, as ``close`` does."""

    def left(self) -> tuple[bytes, int]:
        """After ``detach``: what the next machine, in another process, goes on with; a descriptor, or -1."""
        return b"", -1

    def give(self, left: bytes, fd: int) -> None:
        """Before ``attach``: what ``left`` returned in the process before; *fd* is this one's to close."""

    def reopen(self) -> None:
        """In the process that opened it, before another machine: replace what has ended by itself.

        Raises StartError.
        """

    def detach(self) -> None:
        """The machine is over: leave its event loop. Idempotent. The loop's thread, or after the loop."""

    def close(self) -> None:
        """Release what it has on the host. Idempotent."""

    def close_copy(self) -> None:
        """In a process that was forked since ``open``, after the other has released it: close its copy."""
        self.close()

    def close_unless_kept(self) -> None:
        """Its device needs it no more: detach it, and close it unless it is ``kept``."""
        self.detach()
        if not self.kept:
            self.close()


class HostObjects:
    """Keeps open what the devices of one config have on the host, over all its machines.

    So a pseudo-terminal keeps its name, a file its contents, a snapshot disk what was written to it.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, HostObject] = {}

    def open(self, key: Hashable, make: Callable[[], Opened]) -> Opened:
        """The object of *key*: what *make* returns, opened, the first time; the same one from then on.

        Raises what *make* and its ``open`` raise.
        """
        found: Opened | None = self._kept.get(key)  # type: ignore[assignment]
        if found is None:
            found = make()
            found.kept = True
            self._kept[key] = found  # ``close`` also closes what an ``open`` that raised has left
            found.open()
        return found

    def __iter__(self) -> Iterator[HostObject]:
        """Those that are open, in the order in which they were opened."""
        return iter(self._kept.values())

    def close(self) -> None:
        """Close them, the last first; after the last machine. Idempotent. Raises what one of them raises."""
        while self._kept:
            self._kept.popitem()[1].close()
