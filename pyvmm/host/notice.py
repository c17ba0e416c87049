"""Sentences that a guest can cause, on stderr at a limited rate.

A guest that repeats its mistake a million times gets a few lines, not a full disk.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

#: Lines a call site may write at once, and seconds until it has earned another one.
BURST = 5
PERIOD = 10.0

_lock = allocate_lock()
_sites: dict[str, list[float]] = {}


def notice(site: str, sentence: str) -> bool:
    """Tell the user *sentence*, unless *site* has said enough lately; True when it was told.

    *site* names the place in the program, not the guest's values: there are only so many. The next line
    that is told says how many were not. Any thread.
    """
    now = time.monotonic()
    with _lock:
        state = _sites.setdefault(site, [float(BURST), now, 0.0])
        state[0] = min(float(BURST), state[0] + (now - state[1]) / PERIOD)
        state[1] = now
        if state[0] < 1.0:
            state[2] += 1
            return False
        state[0] -= 1.0
        suppressed, state[2] = int(state[2]), 0.0
    more = f" ({suppressed} more like this were not shown)" if suppressed else ""
    end = "\r\n" if os.isatty(2) else "\n"
    try:
        os.write(2, f"pyvmm: {sentence}{more}{end}".encode(errors="replace"))
    except OSError:
        pass  # nobody to tell
    return True
