"""The cache of guest images, in the directory that ``host/cache.py`` names.

An entry is a file or a directory that appears whole or not at all: it is built in a scratch
directory beside its place, ``.tmp-PID-NAME``, and renamed. Several processes may want the
same entry: whoever holds a flock(2) lock builds it, and the kernel releases the lock when its holder ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from ctypes import get_errno
from pathlib import Path

from pyvmm.errors import StartError
from pyvmm.host.cache import cache_directory, make_directory
from pyvmm.host.libc import function
from pyvmm.host.notice import notice
from pyvmm.host.private import open_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LOCK_EX, _LOCK_NB = 2, 4
_flock = function("flock")


class CacheError(StartError):
    """The cache directory cannot be used."""


def directory() -> Path:
    """The cache's directory; it need not exist. Raises CacheError for a user without a home."""
    path = cache_directory()
    if path is None:
        raise CacheError("there is no home directory for the cache; set PYVMM_CACHE to a directory")
    return Path(path)


def _checked() -> Path:
    """``directory``, which is this user's or root's, and which nobody else may write. Raises CacheError.

    What is in it is booted, by the lab as an emulated host that sees this machine's files. Such a host sees
    the user's cache with that user's number.
    """
    path = directory()
    try:
        found = path.stat()
    except OSError:
        return path  # making it tells more
    strange = found.st_uid not in (0, os.geteuid()) and "PYVMM_LAB" not in os.environ
    if strange or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        import shlex

        what = f"belongs to user {found.st_uid}" if strange else "can be written by others"
        advice = "" if strange else f"chmod go-w {shlex.quote(str(path))}, or "
        raise CacheError(
            f"the cache {path} {what}, and what is in it is booted; {advice}set PYVMM_CACHE to a "
            "directory of yours"
        )
    return path


def entry(name: str, build: Callable[[Path], None]) -> Path:
    """The path of the entry *name* (relative, may have directories), built if it is not there.

    *build* is given a path that does not exist and makes a file, a link or a directory there;
    the path's parent is a scratch directory of this call, removed afterwards. Raises
    CacheError when the cache cannot be written; what *build* raises is passed on, and no entry
    is left then.
    """
    path = _checked() / name
    if path.exists():
        return path
    try:
        make(path.parent)
        with locked(path):
            if not path.exists():
                _build(path, build)
    except OSError as error:
        raise CacheError(
            f"cannot make {path} in the cache: {error.strerror or error}; "
            f"free some space, or set PYVMM_CACHE to a directory that can be written"
        ) from error
    return path


def make(path: Path) -> None:
    """Make *path*, a directory in the cache, if it is not there; the cache itself is for this user alone.

    Raises OSError, and CacheError for a user without a home.
    """
    make_directory(str(_checked()))
    path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of *path*, a file beside it; waits for other holders. Raises OSError.

    Whoever may open the lock file, if only to read, may hold the lock: it is this user's alone.
    """
    lock = path.with_name(f".lock-{path.name}")
    fd = open_private(str(lock), 0)
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            os.fchmod(fd, 0o600)  # one of an older version's
        _wait_for(fd, path)
        yield
    finally:
        os.close(fd)


def prune(pattern: str, keep: int) -> None:
    """Remove entries that match *pattern*, files or directories, all but the *keep* last modified.

    A process that has a file of such an entry open keeps the file. Raises CacheError for a user without a
    home.
    """
    import shutil

    ages = []
    for path in directory().glob(pattern):
        with contextlib.suppress(OSError):  # removed meanwhile
            ages.append((path.stat().st_mtime, path))
    for _, path in sorted(ages, reverse=True)[keep:]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _build(path: Path, build: Callable[[Path], None]) -> None:
    import shutil

    for left in path.parent.glob(".tmp-*"):
        if left.name.split("-", 2)[2] == path.name:
            shutil.rmtree(left, ignore_errors=True)  # of a process that was killed: its lock is ours now
    scratch = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    scratch.mkdir()
    try:
        build(scratch / "entry")
        os.rename(scratch / "entry", path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _wait_for(fd: int, path: Path) -> None:
    operation = _LOCK_EX | _LOCK_NB
    while _flock(fd, operation) != 0:
        number = get_errno()
        if number == errno.EWOULDBLOCK:
            notice("cache lock", f"waiting for another process, which makes {path} in the cache")
            operation = _LOCK_EX
        elif number != errno.EINTR:
            raise OSError(number, os.strerror(number))
