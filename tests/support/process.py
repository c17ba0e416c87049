"""What this process holds: descriptors, threads, memory, mappings."""

from __future__ import annotations

import os
from pathlib import Path


def descriptors() -> int:
    """Open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def threads() -> int:
    """Threads of this process, Python's or not."""
    return len(os.listdir("/proc/self/task"))


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def children(name: str) -> list[int]:
    """The processes that this one started and has not waited for, of those called *name*."""
    lists = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    pids = [int(pid) for pids in lists for pid in pids]
    return [pid for pid in pids if Path(f"/proc/{pid}/comm").read_text() == f"{name}\n"]


def mapping_of(address: int) -> dict[str, str] | None:
    """The entry of /proc/self/smaps that holds *address*; None when nothing is mapped there."""
    entry: dict[str, str] | None = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word = line.split()[0]
        if not word.endswith(":"):
            start, end = (int(part, 16) for part in word.split("-"))
            entry = {"perms": line.split()[1]} if start <= address < end else None
        elif entry is not None:
            name, _, value = line.partition(":")
            entry[name] = value.strip()
            if name == "VmFlags":
                return entry
    return None
