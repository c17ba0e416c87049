"""Files to and from a guest: cpio archives that the guest's init unpacks and packs itself.

The guest needs no tar, no shell and no network. Modes, modification times and symbolic links are kept;
owners are not.
"""

from __future__ import annotations

import stat

from pyvmm.cpio import CpioError, Reader
from pyvmm.exec.request import Request, failure
from pyvmm.exec.tree import Packer, Unpacker, archive_of
from pyvmm.guest.commands import STDERR, STDOUT
from pyvmm.guest.errors import GuestFileError, GuestTimeout
from pyvmm.guest.process import Running
from pyvmm.guest.watch import deadline_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from pyvmm.guest.commands import Command, Commands
    from pyvmm.guest.watch import Waits, Watch

#: Bytes that ``read`` takes at most.
READ_MAX = 256 << 20
#: Bytes of an archive read or sent at a time, and of what the init has to say.
_PIECE = 128 << 10
_SAID_MAX = 64 << 10


class Files:
    """The files of one guest. *ready(what, deadline, timeout)* waits for its exec channel.

    All methods raise GuestFileError, GuestTimeout, GuestEnded and NoCommandsError; ``get`` and ``read`` raise
    CpioError for an archive that is not what was asked for.
    """

    def __init__(
        self,
        watch: Watch,
        ready: Callable[[str, float | None, float | None], Waits[Commands]],
        tail: Callable[[], str],
    ) -> None:
        self._watch = watch
        self._ready = ready
        self._tail = tail

    def put(
        self, source: str | os.PathLike[str], target: str, timeout: float | None, user: str | int | None
    ) -> None:
        """Make *target* in the guest what *source* is on the host. Raises OSError for what cannot be read."""
        packer = Packer(source)
        try:
            pieces = iter(lambda: packer.read(_PIECE), b"")
            self._watch.drive(self._sending(f"put {target}", pieces, target, timeout, user))
        finally:
            packer.close()

    def write(self, path: str, data: bytes, mode: int, timeout: float | None, user: str | int | None) -> None:
        """Make *path* in the guest a file of *data*."""
        archive = memoryview(archive_of(data, mode))
        pieces = (bytes(archive[at : at + _PIECE]) for at in range(0, len(archive), _PIECE))
        self._watch.drive(self._sending(f"write {path}", pieces, path, timeout, user))

    def get(
        self,
        source: str,
        target: str | os.PathLike[str],
        timeout: float | None,
        user: str | int | None,
        limit: int,
    ) -> None:
        """Make *target* on the host what *source* is in the guest, at most *limit* bytes of content."""
        unpacker = Unpacker(target, limit)
        try:
            self._watch.drive(self._receiving(f"get {source}", unpacker.feed, source, timeout, user))
            unpacker.finish()
        finally:
            unpacker.close()

    def read(self, path: str, timeout: float | None, user: str | int | None) -> bytes:
        """The content of the guest's file *path*."""
        name = f"read {path}"
        reader = Reader()
        content = bytearray()
        seen = False

        def take(data: bytes) -> None:
            nonlocal seen
            for item in reader.feed(data):
                if isinstance(item, bytes):
                    content.extend(item)
                elif seen:
                    raise CpioError(f"{name}: the guest sent more than one file")
                elif not stat.S_ISREG(item.mode):
                    raise GuestFileError(f"{name}: it is no file; get copies directories", 21)
                elif item.size > READ_MAX:
                    raise GuestFileError(f"{name}: it has {item.size} bytes; get copies large files", 27)
                else:
                    seen = True

        self._watch.drive(self._receiving(name, take, path, timeout, user))
        if not (seen and reader.ended):
            raise CpioError(f"{name}: what the guest sent ended before the file's end")
        return bytes(content)

    def _sending(
        self,
        name: str,
        pieces: Iterator[bytes],
        target: str,
        timeout: float | None,
        user: str | int | None,
    ) -> Waits[None]:
        deadline = deadline_of(timeout)
        request = Request.unpack(target, user=user)
        commands = yield from self._ready(name, deadline, timeout)
        one = commands.start(request, _SAID_MAX)
        running = Running(self._watch, commands, one, name, self._tail)
        in_time = True
        try:
            for piece in pieces:
                in_time = yield from running.writing(piece, deadline)
                if one.over or not in_time:
                    break
            one.close_input()
            in_time = in_time and (yield from running.ending(deadline))
        finally:
            if not one.over:
                one.abandon()
        self._check(name, one, in_time, timeout)

    def _receiving(
        self,
        name: str,
        take: Callable[[bytes], object],
        source: str,
        timeout: float | None,
        user: str | int | None,
    ) -> Waits[None]:
        deadline = deadline_of(timeout)
        request = Request.pack(source, user=user)
        commands = yield from self._ready(name, deadline, timeout)
        one = commands.start(request)
        one.close_input()
        running = Running(self._watch, commands, one, name, self._tail)
        in_time = True
        try:
            while True:
                came = yield running.until(lambda: one.output[STDOUT], deadline)
                data = one.take(STDOUT, _PIECE)
                if data:
                    take(data)
                    continue
                running.check()
                in_time = bool(came)
                break
        finally:
            if not one.over:
                one.abandon()
        self._check(name, one, in_time, timeout)

    def _check(self, name: str, one: Command, in_time: bool, timeout: float | None) -> None:
        if not in_time or one.status is None:
            raise GuestTimeout(name, timeout or 0.0, self._tail())
        error = failure(one.status, bytes(one.output[STDERR]))
        if error is not None:
            number = error.errno if isinstance(error, OSError) and error.errno else 5
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise GuestFileError(f"{name}: {reason}", number)
