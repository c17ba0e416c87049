"""Reports that a guest, a peer or the host can cause again and again: to ``logging``, at a limited rate.

A guest that repeats its mistake a million times gets a few lines, not a full disk.
"""

from __future__ import annotations

import sys

from pyvmm.host.printable import printable
from pyvmm.host.rate_limit import RateLimit, with_suppressed
from pyvmm.host.report import logger

#: Characters of a report at most.
LENGTH = 1000

#: What each place in the program may still report.
limit = RateLimit()


def notice(site: str, sentence: str) -> bool:
    """Report *sentence* as a warning, unless *site* has reported enough lately; True when it was reported.

    The logger is that of the calling module, by its name. The sentence may have text of others in it: every
    handler gets one printable line. The next report of the site says how many were suppressed. Any thread.

    :param site: the place in the program, without values of the guest's: there must be only so many
    """
    suppressed = limit.take(site)
    if suppressed is None:
        return False
    line = with_suppressed(printable(sentence, LENGTH), suppressed)
    log = logger(sys._getframe(1).f_globals["__name__"])
    log.warning("%s", line, stacklevel=2, extra={"limited": True})
    return True
