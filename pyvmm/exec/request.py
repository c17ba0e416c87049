"""What is asked of a guest: the body of a request, as docs/internals/exec-protocol.md lays it out."""

from __future__ import annotations

import os
import struct

from pyvmm.errors import ConfigError
from pyvmm.exec import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Statuses the guest gives when the command itself never ran.
EXIT_REFUSED = 125
EXIT_CANNOT = 126
EXIT_NOT_FOUND = 127

_HEAD = struct.Struct("<HHHI")
_FLAG_PTY = 1


class ExecRequestError(ConfigError):
    """A command that the protocol cannot carry."""


class Request:
    """A command to run in the guest.

    *argv* is the program and its arguments; a program without a slash is looked up in PATH.
    *env* is added to the guest's own environment. *cwd* is entered after *root*, a directory
    of the guest that becomes the command's root. *pty* is the terminal's size as (rows,
    columns), or None for three pipes. *window* is how many bytes of output may be on their
    way before ``Run.consumed`` is called. Raises ExecRequestError when it cannot be carried.
    """

    __slots__ = ("body", "pty", "window")

    def __init__(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | bytes | None = None,
        root: str | bytes | None = None,
        pty: tuple[int, int] | None = None,
        window: int = 65536,
    ) -> None:
        if not argv:
            raise ExecRequestError("the command for the guest is empty; name a program to run")
        records = [(b"a", os.fsencode(argument)) for argument in argv]
        records += [(b"e", os.fsencode(f"{name}={value}")) for name, value in (env or {}).items()]
        if cwd is not None:
            records.append((b"d", os.fsencode(cwd)))
        if root is not None:
            records.append((b"r", os.fsencode(root)))
        if any(b"\0" in text for _, text in records):
            raise ExecRequestError("the command for the guest has a NUL byte in it; remove it")
        rows, columns = pty or (0, 0)
        head = _HEAD.pack(_FLAG_PTY if pty else 0, rows & 0xFFFF, columns & 0xFFFF, window)
        self.body = head + b"".join(tag + text + b"\0" for tag, text in records)
        self.pty = pty is not None
        self.window = window
        if len(self.body) > frames.REQUEST_MAX:
            raise ExecRequestError(
                f"the command for the guest takes {len(self.body)} bytes with its environment, "
                f"above the limit of {frames.REQUEST_MAX}; put it into a file of the guest"
            )

    @classmethod
    def shell(cls, command: str, *, pty: tuple[int, int] | None = None, window: int = 65536) -> Request:
        """The request that gives *command* to the guest's ``/bin/sh -c``."""
        return cls(["/bin/sh", "-c", command], pty=pty, window=window)
