"""The file ``--result`` names: how the guest ended, as one JSON object.

A regular file appears whole or not at all; a device, a pipe or a link is written to.
"""

from __future__ import annotations

import os
import stat

from pyvmm.errors import StartError
from pyvmm.host.printable import printable
from pyvmm.host.private import open_private

#: Characters of the ending's detail at most.
LIMIT = 1000

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine.ending import Ending


def prepare(path: str) -> None:
    """Raise StartError when *path* cannot be written, before the guest runs in vain.

    The file of an earlier run is removed, so that it is not taken for this one's.
    """
    replaced = _is_replaced(path)
    place = os.path.dirname(path) or "." if replaced else path
    if not path or os.path.isdir(path) or not os.access(place, os.W_OK):
        raise StartError(f"result file {path} cannot be written; give a path in a folder you can write to")
    if replaced and os.path.exists(path):
        os.unlink(path)


def write(path: str, ending: Ending, status: int | None) -> None:
    """Write the record; *status* is what the guest's command ended with. Raises StartError."""
    import json

    record = ending.record()
    record["detail"] = printable(ending.detail, LIMIT)
    if status is not None:
        record["status"] = status
    replaced = _is_replaced(path)
    place = f"{path}.{os.urandom(8).hex()}" if replaced else path  # a name that nobody can have taken
    try:
        fd = open_private(place, os.O_EXCL if replaced else os.O_APPEND | os.O_NONBLOCK)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if replaced:
            os.replace(place, path)
    except OSError as error:
        if replaced and os.path.exists(place):
            os.unlink(place)
        raise StartError(
            f"result file {path} was not written: {error.strerror}; the guest ended with code {ending.code} "
            f"({ending.reason})"
        ) from None


def _is_replaced(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return True  # there is none
