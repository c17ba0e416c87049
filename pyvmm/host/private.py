"""A directory of this user alone for sockets and other things that last as long as a process."""

from __future__ import annotations

import errno
import os
import stat


def runtime_directory(name: str) -> str:
    """``$XDG_RUNTIME_DIR/NAME``, else ``NAME-UID`` in the directory for temporary files; made if need be.

    It is this user's, has mode 0700 and is no link. Raises OSError, whose ``strerror`` says what is wrong and
    whose ``filename`` is the path.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(base) and os.path.isdir(base):
        path = os.path.join(base, name)
    else:
        path = os.path.join(_temporary(), f"{name}-{os.geteuid()}")
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise OSError(errno.EPERM, "it is not a directory of this user alone", path)
    return path


def _temporary() -> str:
    import tempfile

    return tempfile.gettempdir()
