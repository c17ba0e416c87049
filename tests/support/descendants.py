"""The processes below this one, those included whose parents have ended: it becomes their parent then.

Source: prctl(2), PR_SET_CHILD_SUBREAPER. For a process that has no other children.
"""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

from pyvmm.host.libc import function

_PR_SET_CHILD_SUBREAPER = 36


def adopt() -> None:
    """From now on a process below this one whose parent ends becomes this one's child."""
    assert function("prctl")(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def children(pid: int) -> list[int]:
    """The processes that *pid* has started and not waited for; none when it is gone."""
    try:
        lists = [(task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
    return [int(number) for text in lists for number in text.split()]


def below(pid: int) -> list[int]:
    """All processes below *pid*, the nearest first."""
    found = children(pid)
    for number in found:
        found += children(number)
    return found


def command(pid: int) -> str:
    """The command line of *pid*, or its name where it has none left; empty when it is gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
    return " ".join(word.decode(errors="replace") for word in words) or name


def left(limit: float) -> list[str]:
    """Wait until no process is below this one; those that are left after *limit* seconds."""
    end = time.monotonic() + limit
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return []
        if not pid:
            if time.monotonic() > end:
                return [command(number) for number in below(os.getpid())]
            select.select([], [], [], 0.002)
