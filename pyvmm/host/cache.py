"""Where pyvmm keeps what it can make again: unpacked kernels, guest images."""

from __future__ import annotations

import os


def cache_directory() -> str | None:
    """The cache's directory, an absolute path; it need not exist. None for a user without a home.

    ``$PYVMM_CACHE``, else ``pyvmm`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``. As the XDG base directory
    specification wants, a relative ``$XDG_CACHE_HOME`` is ignored.
    """
    own = os.environ.get("PYVMM_CACHE")
    if own:
        return os.path.abspath(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    return f"{base}/pyvmm" if os.path.isabs(base) else None


def make_directory(path: str) -> None:
    """Make the directory *path* and those above it that are missing, each with mode 0700 whatever the umask.

    What lies in the cache is executed and booted: nobody else is to write there. A directory that exists
    stays as it is: it may be shared on purpose. Raises OSError.
    """
    above = os.path.dirname(path)
    if above and not os.path.isdir(above):
        make_directory(above)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
