"""A limit on how often something is reported."""

from __future__ import annotations

import time
from _thread import allocate_lock

#: Reports that a site may make at once, and seconds until it may make another one.
BURST = 5
PERIOD = 10.0


class RateLimit:
    """At most *burst* reports of a site at once, then one in *period* seconds (a token bucket a site)."""

    def __init__(self, burst: int = BURST, period: float = PERIOD) -> None:
        self._burst = float(burst)
        self._period = period
        self._lock = allocate_lock()
        #: For each site: the reports it may make now, when that was computed, and how many were suppressed.
        self.sites: dict[object, list[float]] = {}

    def take(self, site: object) -> int | None:
        """None when *site* has reported enough lately, else how many of its reports were suppressed before.

        Any thread.

        :param site: a place in the program; there must be only so many
        """
        now = time.monotonic()
        with self._lock:
            state = self.sites.setdefault(site, [self._burst, now, 0.0])
            state[0] = min(self._burst, state[0] + (now - state[1]) / self._period)
            state[1] = now
            if state[0] < 1.0:
                state[2] += 1
                return None
            state[0] -= 1.0
            suppressed, state[2] = int(state[2]), 0.0
        return suppressed


def with_suppressed(sentence: str, suppressed: int) -> str:
    """*sentence*, and how many like it were suppressed before.

    :param suppressed: a number of reports, from 0
    """
    return f"{sentence} ({suppressed} more like this were not shown)" if suppressed else sentence
