"""Makes, runs and closes VMs in this process, and prints what it holds before and after, as JSON.

Usage: ``many_vms.py ROM WARM_UP COUNT``, with pyvmm importable. The guest ends at once.
"""

from __future__ import annotations

import json
import os
import sys
import time

from pyvmm.backends.base import CharBackend
from pyvmm.config import Config
from pyvmm.machine.machine import Machine

PASSED = 32


def held() -> dict[str, int]:
    """File descriptors, threads, resident KiB, mappings."""
    with open("/proc/self/status", encoding="ascii") as file:
        status = dict(line.split(":", 1) for line in file)
    with open("/proc/self/maps", encoding="ascii") as file:
        mappings = sum(1 for _ in file)
    return {
        "fds": len(os.listdir("/proc/self/fd")),
        "threads": int(status["Threads"]),
        "resident": int(status["VmRSS"].split()[0]),
        "mappings": mappings,
    }


def run(rom: str, count: int) -> None:
    for _ in range(count):
        config = Config(firmware=rom, memory="256M", console="none", timeout=30)
        with Machine(config, console=CharBackend()) as machine:
            machine.start()
            ending = machine.wait()
        if ending.code != PASSED:
            sys.exit(f"a guest ended with {ending.code}: {ending.reason} {ending.detail}")


def main() -> None:
    rom, warm_up, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    run(rom, warm_up)
    before, begin = held(), time.monotonic()
    run(rom, count)
    seconds, after = time.monotonic() - begin, held()
    print(json.dumps({"before": before, "after": after, "ms": seconds * 1000 / count}))


if __name__ == "__main__":
    main()
