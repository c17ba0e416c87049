"""Boots a guest to a line on its console, once: the half of the boot benchmark that runs in the lab.

Each run is started, timed from its start to its line, and killed; its exits are counted, or with
``"trace": true`` told by what they are for.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from boot.exits import Counter, Trace
from until import TAIL, until


def one(run: dict[str, Any]) -> dict[str, Any]:
    command, line = run["command"], run["line"].encode()
    watch = Trace() if run.get("trace") else Counter()
    try:
        seconds, said, status, peak = until(command, line, run["limit"])
        seen = dict(watch.read())
    finally:
        watch.close()
    result = {"name": run["name"], "seconds": seconds, "exits": seen, "console": len(said), "peak": peak}
    if seconds is None:
        result |= {"status": status, "tail": said[-TAIL:].decode(errors="replace")}
    return result


def main() -> None:
    # Held all the time: the kernel patches its code when the first counter comes and when the last one goes,
    # which an emulated host may not survive (firmware/guest/tools/hold.c).
    _ = Counter()
    for run in json.loads(sys.argv[1])["runs"]:
        print(json.dumps(one(run)), flush=True)


if __name__ == "__main__":
    main()
