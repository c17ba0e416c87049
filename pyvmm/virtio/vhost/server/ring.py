"""One queue of our vhost-user back end, as the front end describes it: its place, its eventfds."""

from __future__ import annotations

from pyvmm.host.eventfd import EventSignaller
from pyvmm.virtio.vhost import user_protocol as p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _nobody() -> None:
    """Signals no eventfd: the front end has given none."""


class ServedRing:
    """What the front end said of one queue."""

    __slots__ = (
        "base",
        "begun",
        "call",
        "enabled",
        "err",
        "kick",
        "signal_call",
        "signal_err",
        "size",
        "users",
    )

    def __init__(self) -> None:
        self.size = 0
        #: User addresses of descriptor table, available ring and used ring.
        self.users: tuple[int, int, int] | None = None
        self.base = 0
        self.kick = self.call = self.err = -1
        #: They signal ``call`` and ``err``, without waiting for the front end.
        self.signal_call: Callable[[], object] = _nobody
        self.signal_err: Callable[[], object] = _nobody
        self.enabled = False
        #: Whether the device has it, since it was started.
        self.begun = False

    def replace(self, name: str, fd: int, signaller: EventSignaller) -> int:
        """Take *fd*, -1 for none, as ``kick``, ``call`` or ``err``; the one before, which the caller closes.

        :param signaller: signals *fd*
        """
        old: int = getattr(self, name)
        if name != "kick":
            setattr(self, f"signal_{name}", _nobody if fd < 0 else signaller.signal(fd))
        setattr(self, name, fd)
        return old


def checked_eventfd(message: p.Message, signaller: EventSignaller) -> int:
    """The eventfd that *message* brings. Raises ProtocolError for another file, which is closed."""
    fd = message.fd()
    if not signaller.is_eventfd(fd):  # reading or writing anything else could block this process
        p.close(fd)
        raise p.ProtocolError(f"{message.name} came with a file that is no eventfd")
    return fd
