"""Boots a guest to a line on its console, once: the half of the boot benchmark that runs in the lab.

Usage: boot_guest.py JSON, a list of runs ``{"name": ..., "command": [...], "trace": bool, "limit": s}``.
Each is started, timed from its start to the line, and killed. Prints a line of JSON a run.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from exits import Counter, Trace

TAIL = 4000


def boot(command: list[str], line: bytes, limit: float) -> tuple[float | None, bytes, int, int]:
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


def one(run: dict[str, Any]) -> dict[str, Any]:
    command, line = run["command"], run["line"].encode()
    watch = Trace() if run.get("trace") else Counter()
    try:
        seconds, said, status, peak = boot(command, line, run["limit"])
        seen = dict(watch.read())
    finally:
        watch.close()
    result = {"name": run["name"], "seconds": seconds, "exits": seen, "console": len(said), "peak": peak}
    if seconds is None:
        result |= {"status": status, "tail": said[-TAIL:].decode(errors="replace")}
    return result


def main() -> None:
    for run in json.loads(sys.argv[1]):
        print(json.dumps(one(run)), flush=True)


if __name__ == "__main__":
    main()
