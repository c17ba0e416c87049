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
