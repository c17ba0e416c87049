"""The command line's one handler of ``logging``: prints each record as a line on standard error."""

from __future__ import annotations

import logging
from _thread import allocate_lock

from pyvmm import host
from pyvmm.cli.messages import LIMIT, write_line
from pyvmm.host.printable import printable
from pyvmm.host.rate_limit import RateLimit, with_suppressed

_lock = allocate_lock()


class ReportHandler(logging.Handler):
    """Prints records of any logger; warnings of one call site at a limited rate.

    Never blocks: a line that standard error does not take at once is dropped, and the next line that it takes
    is preceded by one that says how many were. A record with the attribute ``limited`` was limited
    where it was made. Records below a warning are there because the user asked for them: no limit. One with
    the attribute ``plain`` is printed without the program's name.
    """

    def __init__(self) -> None:
        super().__init__()
        self._limit = RateLimit()
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Print *record*. Called with the handler's lock held."""
        suppressed = 0
        if record.levelno >= logging.WARNING and not getattr(record, "limited", False):
            allowed = self._limit.take((record.pathname, record.lineno))
            if allowed is None:
                return
            suppressed = allowed
        text = with_suppressed(_text(record), suppressed)
        if self._dropped and write_line(f"pyvmm: {self._dropped} lines were dropped: nobody read them"):
            self._dropped = 0
        start = "" if getattr(record, "plain", False) else "pyvmm: "
        if self._dropped or not write_line(start + printable(text, LIMIT)):
            self._dropped += 1


def install() -> None:
    """Add the handler to the root logger, once. Any thread.

    Called at the first report; before it by who runs code of others, which may use ``logging`` itself.
    """
    host.before_first_report = None
    root = logging.getLogger()
    with _lock:
        if not any(isinstance(handler, ReportHandler) for handler in root.handlers):
            root.addHandler(ReportHandler())


def show_progress() -> None:
    """Also print what the fetching and building of guest images reports."""
    install()
    logging.getLogger("pyvmm.images").setLevel(logging.INFO)


def show_trace() -> None:
    """Also print the traces of devices that go to no file."""
    install()
    logging.getLogger("pyvmm.virtio.tools.trace").setLevel(logging.INFO)


def _text(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # arguments that do not fit the format: the format says most
        text = str(record.msg)
    error = record.exc_info[1] if record.exc_info else None
    return text if error is None else f"{text}: {type(error).__name__}: {error}"
