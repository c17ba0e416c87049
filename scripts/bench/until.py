"""Inside the lab: a VMM's process from its start until its guest says a line, and what it said till then."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from typing import Any

#: The console's last bytes, that tell of a run which failed.
TAIL = 4000
#: A workload's count and microseconds.
RESULT = re.compile(rb"^result\b *(?:([1-9]\d*) (\d+))?", re.MULTILINE)


def workloads(run: dict[str, Any]) -> dict[str, Any]:
    """Microseconds a count of each workload of *run*'s guest."""
    seconds, said, _, _ = until(run["command"], run["line"].encode(), run["limit"])
    found = [match.groups() for match in RESULT.finditer(said)]
    if seconds is None or not found or (None, None) in found:
        return {"name": run["name"], "tail": said[-TAIL:].decode(errors="replace")}
    return {"name": run["name"], "us": [int(microseconds) / int(count) for count, microseconds in found]}


def until(command: list[str], line: bytes, limit: float) -> tuple[float | None, bytes, int, int]:
    """Seconds to *line* (None: it never came), the console's bytes, the wait status, peak KiB.

    The process is killed at the line, so that nothing is counted beyond it.
    """
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    actions = [
        (os.POSIX_SPAWN_DUP2, nothing, 0),
        (os.POSIX_SPAWN_DUP2, theirs, 1),
        (os.POSIX_SPAWN_DUP2, theirs, 2),
    ]
    begin = time.monotonic()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions, setpgroup=0)
    os.close(theirs)
    os.close(nothing)
    said, seconds = bytearray(), None
    while True:
        left = begin + limit - time.monotonic()
        if left <= 0 or not select.select([ours], [], [], left)[0]:
            break
        data = os.read(ours, 65536)
        if not data:
            break
        before = max(0, len(said) - len(line))
        said += data
        if said.find(line, before) >= 0:
            seconds = time.monotonic() - begin
            break
    os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    os.close(ours)
    return seconds, bytes(said), status, usage.ru_maxrss
