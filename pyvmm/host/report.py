"""What this program tells its user as it works: to ``logging``, which is loaded by the first report."""

from __future__ import annotations

import sys
from _thread import allocate_lock

from pyvmm import host

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

_preparing = allocate_lock()


def logger(name: str) -> logging.Logger:
    """The logger *name*, once the program has added its handlers. Any thread."""
    with _preparing:
        prepare, host.before_first_report = host.before_first_report, None
        if prepare is not None:
            prepare()
    import logging  # here: it costs a start 5 ms

    return logging.getLogger(name)


def progress(text: str) -> None:
    """Report *text*, of a slow step that begins: level INFO of the calling module's logger. Any thread."""
    logger(sys._getframe(1).f_globals["__name__"]).info("%s", text, stacklevel=2)
