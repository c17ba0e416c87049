"""Limits of a process's own resources. Source: setrlimit(2)."""

from __future__ import annotations

import resource
import select

UNLIMITED = resource.RLIM_INFINITY
#: Descriptors that are asked for at once.
_STEP = 64


def limit(*, descriptors: int, file_size: int = UNLIMITED) -> None:
    """No core dump, no locked memory; *descriptors* more than are open; no byte of a file behind *file_size*.

    A write there is EFBIG: Python ignores SIGXFSZ. Processes are not limited (RLIMIT_NPROC): that counts
    threads, and all of the user's. Raises OSError.
    """
    for which, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_NOFILE, _highest_descriptor() + 1 + descriptors),
        (resource.RLIMIT_FSIZE, file_size),
    ):
        hard = resource.getrlimit(which)[1]
        if hard != UNLIMITED:
            most = hard if most == UNLIMITED else min(most, hard)
        resource.setrlimit(which, (most, most))


def _highest_descriptor() -> int:
    """The highest of the open descriptors that follow each other in steps of 64; -1 for none."""
    highest = -1
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    step = min(_STEP, most)  # poll(2) takes no more descriptors than the limit allows
    for first in range(0, most, max(step, 1)):
        poll = select.poll()
        for fd in range(first, first + step):
            poll.register(fd, 0)
        absent = {fd for fd, event in poll.poll(0) if event & select.POLLNVAL}
        there = [fd for fd in range(first, first + step) if fd not in absent]
        if not there:
            break
        highest = there[-1]
    return highest
