"""Files that this process opened by name before it gave up the file system.

What opens a file of the host's for a machine calls ``open_file``. A process that is about to lose its root
directory (``host/sandbox.py``) calls ``keep`` for each name before; what came of it, a descriptor or an
error, is what ``open_file`` has for that name from then on.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

_kept: dict[str, int | OSError] = {}


#: Whether this process has given up the file system.
gave_up = False


def keep(path: str, flags: int) -> None:
    """Open *path* with *flags* (``os.O_RDONLY``...) now, for ``open_file``; raises nothing."""
    try:
        _kept[path] = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        _kept[path] = error


def kept() -> Container[str]:
    """The names that ``keep`` was given."""
    return _kept


def descriptors() -> list[int]:
    """The descriptors of all that ``keep`` opened."""
    return [found for found in _kept.values() if isinstance(found, int)]


def close_all() -> None:
    """Close what ``keep`` opened: everything is built."""
    for fd in descriptors():
        os.close(fd)
    _kept.clear()


def open_file(path: str, flags: int) -> int:
    """A descriptor of *path*, the caller's to close: a duplicate of the one kept, else ``os.open``.

    Duplicates share their position in the file, and have the flags that ``keep`` was given. Raises OSError.

    :param flags: for ``os.open``: ``os.O_RDONLY``...
    """
    found = _kept.get(path)
    if found is None:
        return os.open(path, flags)
    if isinstance(found, OSError):
        raise found
    return os.dup(found)
