"""A cable between two VM processes: a UNIX socket of type SEQPACKET, one frame with its header a packet.

Whoever holds the lock file beside the socket listens, the other connects; each keeps its role until it ends,
so either may start first, end, and start again. Headers are sent with the frames, so segmentation and
checksums are left to the receiver.
"""

from __future__ import annotations

import errno
import os
import socket

from pyvmm.backends.base import BackendError
from pyvmm.backends.listener import Listener, check_path
from pyvmm.backends.net.base import ALL_OFFLOADS, NetBackend, NetBackendError
from pyvmm.host import broker
from pyvmm.host.broker import Offer
from pyvmm.host.libc import function
from pyvmm.host.notice import notice
from pyvmm.host.peer import stranger
from pyvmm.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.loop import Loop, Timer

#: Seconds between two attempts to reach the other end.
RETRY = 0.25
_LOCK_EX, _LOCK_NB = 2, 4  # flock(2)
#: Bytes that may be under way; the kernel may allow less (net.core.wmem_max).
_BUFFER = 2 << 20


class Link(NetBackend):
    """One end of the cable whose socket is at *path*. ``carrier`` is True while there is another end.

    Raises NetBackendError for a path that cannot be a socket's.
    """

    offloads = ALL_OFFLOADS
    foreign = True

    def __init__(self, path: str) -> None:
        super().__init__()
        try:
            check_path(path)
        except BackendError as error:
            raise NetBackendError(str(error)) from None
        self.path = path
        self.paths = () if broker.is_there() else (os.path.dirname(os.path.abspath(path)),)
        self.carrier = False
        self._lock = _take_lock(f"{path}.lock")
        self._listener: Listener | None = None
        self._reach = Offer(self._reach_here)
        self._peer: socket.socket | None = None
        self._timer: Timer | None = None
        self._loop: Loop | None = None

    @property
    def listens(self) -> bool:
        """Whether this end listens, and the other connects."""
        return self._lock >= 0

    @property
    def identity(self) -> str:
        """Which of the two ends."""
        return "link listens" if self.listens else "link connects"

    def open(self) -> None:
        """Listen, if this end does. Raises NetBackendError."""
        if not self.listens or self._listener is not None:
            return
        try:
            self._listener = Listener(self.path, socket.SOCK_SEQPACKET)
        except BackendError as error:
            raise NetBackendError(str(error)) from None

    def attach(self, loop: Loop) -> None:
        """Accept the other end, or connect to it where it is not connected. Raises as ``open``."""
        super().attach(loop)
        self._loop = loop
        if self._listener is not None:
            loop.add(self._listener.socket.fileno(), READ, self._accept)
        elif self._peer is None:
            self._connect()

    def detach(self) -> None:
        """Leave the loop; the other end stays connected, and has a carrier."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop, self._loop = self._loop, None
        if loop is not None and self._listener is not None:
            loop.remove(self._listener.socket.fileno())

    def left(self) -> tuple[bytes, int]:
        """The connection to the other end."""
        return b"", self.fd(0)

    def give(self, left: bytes, fd: int) -> None:
        """The connection that the process before had."""
        if fd >= 0:
            self._join(socket.socket(fileno=fd))

    def fd(self, pair: int) -> int:
        """The connection; -1 while there is none."""
        return -1 if self._peer is None else self._peer.fileno()

    def receive(self, pair: int, views: list[memoryview]) -> int:
        """Read one frame. Raises BlockingIOError when there is none, and when there is no other end."""
        if self._peer is None:
            raise BlockingIOError
        try:
            size = os.readv(self._peer.fileno(), views)
        except ConnectionError:
            size = 0
        if not size:
            self._disconnected()
            raise BlockingIOError
        return size

    def send(self, pair: int, views: list[memoryview]) -> None:
        """One frame; it is lost when there is no other end."""
        if self._peer is None:
            return
        try:
            os.writev(self._peer.fileno(), views)
        except ConnectionError:
            pass  # reading it reports that, too

    def describe(self) -> str:
        """The path."""
        return f"link {self.path}"

    def close(self) -> None:
        """Disconnect; the listening end removes the socket."""
        self.detach()
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._lock >= 0:
            try:
                os.unlink(f"{self.path}.lock")
            except OSError:
                pass  # another process removed it
            os.close(self._lock)
            self._lock = -1

    def _accept(self, events: int) -> None:
        assert self._listener is not None
        try:
            peer, _ = self._listener.socket.accept()
        except OSError:
            return  # it has disconnected
        with self.lock:
            if self._peer is not None and not _gone(self._peer):
                notice("link", f"the link {self.path} has both its ends; a third one was turned away")
                peer.close()
                return
            if self._peer is not None:
                self._disconnected()
            self._join(peer)

    def _connect(self) -> None:
        assert self._loop is not None
        try:
            peer = socket.socket(fileno=self._reach())
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN):
                notice("link", f"the link {self.path} cannot be reached: {error.strerror}")
            self._timer = self._loop.call_later(RETRY, self._connect)
        else:
            with self.lock:
                self._join(peer)

    def _reach_here(self, _: int, __: int) -> int:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as peer:
            peer.connect(self.path)
            if why := stranger(peer):
                raise PermissionError(errno.EACCES, why)
            return os.dup(peer.fileno())

    def _join(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._peer = peer
        self.carrier = True
        if self.on_change is not None:
            self.on_change()

    def _disconnected(self) -> None:
        """The other end has disconnected. In the device's loop."""
        peer, self._peer = self._peer, None
        self.carrier = False
        if self.on_change is not None:
            self.on_change()  # the device stops polling the descriptor
        if peer is not None:
            peer.close()
        if not self.listens and self._loop is not None:
            self._timer = self._loop.call_later(RETRY, self._connect)


flock = function("flock")


def _take_lock(path: str) -> int:
    """A descriptor that holds the lock file *path*, until its process ends; -1 when another has it."""
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise NetBackendError(f"cannot make {path}: {error.strerror}; choose another path") from None
        if flock(fd, _LOCK_EX | _LOCK_NB):  # not lockf, which knows no two ends in one process
            os.close(fd)
            return -1
        try:
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)  # its holder has removed it: this is another file


def _gone(peer: socket.socket) -> bool:
    try:
        return not peer.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
