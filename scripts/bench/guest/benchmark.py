"""guest: what driving one costs: a command against a local one, a file against the port that it goes through.

Both in the lab, in one process: ``Guest.run(["true"])`` in a booted guest against a local
``subprocess.run(["true"])``, and 20 MiB by ``Guest.put`` into a tmpfs of the guest against the same bytes
through a virtio console's port, which a program of the guest's copies there. Less is better.
"""

from __future__ import annotations

import argparse

import installed
import lab
from common import Row, pairs_row, progress

#: A command may take so many times as long as a local one, and bytes by ``put`` as on the port.
TARGETS = {"command": 5.0, "put": 2.0}
#: Bytes that are put.
SIZE = 20 << 20
#: Seconds a pair of transfers gets.
LIMIT = 400


def measure(options: argparse.Namespace) -> list[Row]:
    installed.environment(progress)
    runs = [{"name": f"pair {pair}", "limit": LIMIT, "size": SIZE} for pair in range(options.boot_pairs)]
    found = lab.results("guest/guest.py", runs)
    return [
        pairs_row(
            name,
            unit,
            [one[key][0] * scale for one in found],
            peer,
            [one[key][1] * scale for one in found],
            TARGETS[key],
        )
        for key, name, unit, scale, peer in (
            ("command", "run(['true']) in a booted guest", "ms", 1000.0, "local"),
            ("put", "put of 20 MiB into a tmpfs", "s", 1.0, "port"),
        )
    ]


def notes(options: argparse.Namespace) -> list[str]:
    return [f"{options.boot_pairs} pairs on one emulated host; each command's figure is a median of 15"]
