"""What is asked of a guest: the body of a request, as docs/internals/exec-protocol.md lays it out."""

from __future__ import annotations

import os
import struct

from pyvmm.errors import ConfigError, GuestError
from pyvmm.exec import frames
from pyvmm.host.printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Statuses the guest gives when the command itself never ran.
EXIT_REFUSED = 125
EXIT_CANNOT = 126
EXIT_NOT_FOUND = 127

_HEAD = struct.Struct("<HHHI")
_FLAG_PTY = 1
#: Characters of what the guest's init has to say: a path may be in it.
_MESSAGE_MAX = 1000


class ExecRequestError(ConfigError):
    """A request that the protocol cannot carry."""


class Request:
    """A command to run in the guest.

    *argv* is the program and its arguments; a program without a slash is looked up in PATH.
    *env* is added to the guest's own environment. *cwd* is entered after *root*, a directory
    of the guest that becomes the command's root. *pty* is the terminal's size as (rows,
    columns), or None for three pipes. *window* is how many bytes of output may be on their
    way before ``Run.consumed`` is called. *user* is a name of the guest's /etc/passwd or a number (None:
    root), with the groups that /etc/group gives it. Raises ExecRequestError when it cannot be carried.
    """

    __slots__ = ("body", "pty", "window")

    def __init__(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | bytes | None = None,
        root: str | bytes | None = None,
        user: str | int | None = None,
        pty: tuple[int, int] | None = None,
        window: int = 65536,
    ) -> None:
        if not argv:
            raise ExecRequestError("the command for the guest is empty; name a program to run")
        records: list[tuple[bytes, str | bytes]] = [(b"a", argument) for argument in argv]
        records += [(b"e", f"{name}={value}") for name, value in (env or {}).items()]
        if cwd is not None:
            records.append((b"d", cwd))
        self._fill(records, root, user, pty, window)

    def _fill(
        self,
        records: list[tuple[bytes, str | bytes]],
        root: str | bytes | None,
        user: str | int | None,
        pty: tuple[int, int] | None,
        window: int,
    ) -> None:
        if root is not None:
            records.append((b"r", root))
        if user is not None:
            records.append((b"u", str(user)))
        encoded = [(tag, os.fsencode(text)) for tag, text in records]
        if any(b"\0" in text for _, text in encoded):
            raise ExecRequestError("the request for the guest has a NUL byte in it; remove it")
        rows, columns = pty or (0, 0)
        head = _HEAD.pack(_FLAG_PTY if pty else 0, rows & 0xFFFF, columns & 0xFFFF, window)
        self.body = head + b"".join(tag + text + b"\0" for tag, text in encoded)
        self.pty = pty is not None
        self.window = window
        if len(self.body) > frames.REQUEST_MAX:
            raise ExecRequestError(
                f"the request for the guest takes {len(self.body)} bytes with its environment, "
                f"above the limit of {frames.REQUEST_MAX}; put it into a file of the guest"
            )

    @classmethod
    def parsed(cls, body: bytes, most: int) -> Request:
        """The request that another process made, its window at most *most* bytes. Raises ExecRequestError."""
        if len(body) < _HEAD.size:
            raise ExecRequestError("the command for the guest is cut off; send a whole request")
        flags, rows, columns, window = _HEAD.unpack_from(body)
        request = cls.__new__(cls)
        request.pty = bool(flags & _FLAG_PTY)
        request.window = min(window, most)
        request.body = _HEAD.pack(flags, rows, columns, request.window) + body[_HEAD.size :]
        return request

    @classmethod
    def shell(cls, command: str, *, pty: tuple[int, int] | None = None, window: int = 65536) -> Request:
        """The request that gives *command* to the guest's ``/bin/sh -c``.

        *pty* and *window*: see ``Request``. Raises ExecRequestError.
        """
        return cls(["/bin/sh", "-c", command], pty=pty, window=window)

    @classmethod
    def unpack(
        cls,
        target: str | bytes,
        *,
        root: str | bytes | None = None,
        user: str | int | None = None,
        window: int = 65536,
    ) -> Request:
        """The request that makes *target* in the guest out of a cpio archive on standard input.

        Its status is 0 or an errno of the guest's, as ``failure`` reads it. *root*, *user* and *window*: see
        ``Request``. Raises ExecRequestError.
        """
        request = cls.__new__(cls)
        request._fill([(b"x", target)], root, user, None, window)
        return request

    @classmethod
    def pack(
        cls,
        path: str | bytes,
        *,
        root: str | bytes | None = None,
        user: str | int | None = None,
        window: int = 262144,
    ) -> Request:
        """The request that gives a file or a directory of the guest as a cpio archive on standard output.

        Its status is 0 or an errno of the guest's, as ``failure`` reads it. *root*, *user* and *window*: see
        ``Request``. Raises ExecRequestError.
        """
        request = cls.__new__(cls)
        request._fill([(b"p", path)], root, user, None, window)
        return request


def failure(status: int, stderr: bytes) -> Exception | None:
    """What the end of ``Request.pack`` or ``unpack`` means: None, OSError, or GuestError when it did not run.

    *status* is ``Run.status``, 0 to 255. *stderr* is what it wrote there; its first line is the message. The
    OSError has the guest's errno.
    """
    if not status:
        return None
    text = printable(stderr.partition(b"\n")[0].removeprefix(b"pyvmm-init: "), _MESSAGE_MAX)
    if status < EXIT_REFUSED:
        return OSError(status, text or os.strerror(status))
    return GuestError(text or f"the guest's init ended with status {status}")
