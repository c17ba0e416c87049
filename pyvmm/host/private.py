"""Files and directories of this user alone: what guests write, and sockets that last as long as a process."""

from __future__ import annotations

import errno
import os
import stat


def open_private(path: str, flags: int) -> int:
    """Open the file *path* for writing, with O_CREAT and *flags* (O_TRUNC, O_APPEND, O_NONBLOCK, ...).

    A file that is made has mode 0600: what a guest writes is for its user alone. One that exists keeps its
    mode. A symbolic link is followed if it is this user's or root's. Raises OSError, whose ``strerror`` says
    what is wrong.
    """
    flags |= os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    if os.lstat(path).st_uid not in (0, os.geteuid()):
        raise OSError(errno.ELOOP, "it is another user's symbolic link", path)
    return os.open(path, flags, 0o600)


def runtime_directory(name: str) -> str:
    """``$XDG_RUNTIME_DIR/NAME``, else ``NAME-UID`` in ``$TMPDIR``, else in ``/tmp``; made if need be.

    It is this user's, has mode 0700 and is no link. Raises OSError, whose ``strerror`` says what is wrong and
    whose ``filename`` is the path.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(base) and os.path.isdir(base):
        path = os.path.join(base, name)
    else:
        base = os.environ.get("TMPDIR", "")  # not by ``tempfile``, whose imports cost a start 10 ms
        if not (os.path.isabs(base) and os.path.isdir(base)):
            base = "/tmp"
        path = os.path.join(base, f"{name}-{os.geteuid()}")
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise OSError(errno.EPERM, "it is not a directory of this user alone", path)
    return path
