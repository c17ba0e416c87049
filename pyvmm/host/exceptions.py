"""Where an exception was raised: method, file and line."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def raised_at(error: BaseException) -> str:
    """``handle, mydev.py line 12``: the innermost frame in code of the user's, else of anybody's.

    Code of the user's is what is neither pyvmm's nor the Python installation's. Empty for an exception
    that was never raised.
    """
    found = last = error.__traceback__
    while last is not None:
        if _users(last) or not (found is not None and _users(found)):
            found = last
        last = last.tb_next
    if found is None:
        return ""
    code = found.tb_frame.f_code
    return f"{code.co_name}, {shorten(code.co_filename)} line {found.tb_lineno}"


def shorten(path: str) -> str:
    """*path* as seen from the current directory, where that is shorter."""
    try:
        return min(os.path.relpath(path), path, key=len)
    except (OSError, ValueError):  # the current directory is gone
        return path


def describe(error: BaseException) -> str:
    """``ValueError: the text``, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".rstrip(": ").split())


def advice(error: BaseException) -> str:
    """What to do about *error* of a device in a process that has given up the file system; or nothing."""
    from pyvmm.host import opened

    if not opened.gave_up or not isinstance(error, OSError | ImportError):
        return ""
    return (
        "; its process is confined: name the files that it uses in its paths, import at the top of its file, "
        "or give --sandbox=off"
    )


def _users(frame: TracebackType) -> bool:
    path = frame.tb_frame.f_code.co_filename
    if path.startswith("<"):
        return False
    path = os.path.abspath(path)
    installed = "site-packages" in path or "dist-packages" in path
    return not path.startswith(_OURS) and (installed or not path.startswith(sys.base_prefix + "/lib"))
