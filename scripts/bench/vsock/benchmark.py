"""vsock: the socket device alone, by the fake driver; and streams of a guest, by this process or the kernel.

Alone: between the guest's packets and a UNIX socket, the device's own work, against the UNIX socket's calls
for the same bytes. In the lab: the same guest and load with the device in pyvmm's process and UNIX sockets on
the host, and with the host's vhost-vsock and AF_VSOCK; both are pyvmm. Microseconds a MiB, so less is better.
"""

from __future__ import annotations

import argparse
import subprocess

import installed
import lab
from common import BENCH, Row, SkippedError, interleave, pairs_row, progress

CID, PATH = 3, "/tmp/bench-vsock"
PORTS = {"in": 7000, "out": 7001}
WORKLOADS = tuple(
    lab.Workload(f"in a guest, {name}", f"{kind} vsock {PORTS[kind]} {{ms}}", "us/MiB", 1 << 20)
    for name, kind in (("from the host", "in"), ("to the host", "out"))
)


def measure(options: argparse.Namespace) -> list[Row]:
    python = str(installed.environment(progress) / "bin" / "python")
    rows = [
        _alone("from a UNIX socket", "in", python, options),
        _alone("to a UNIX socket", "out", python, options),
    ]
    try:
        rows += _guests(options)
    except SkippedError as error:
        progress("")
        print(f"\nvsock: the part in the lab is skipped: {error}")
    return rows


def notes(options: argparse.Namespace) -> list[str]:
    return [
        "1000 us/MiB are 1,049 MB/s",
        f"in the lab, {options.boot_pairs} pairs: the device in pyvmm's process, and vhost-vsock under pyvmm",
    ]


def _alone(measure: str, way: str, python: str, options: argparse.Namespace) -> Row:
    def once(*words: str) -> float:
        command = [python, str(BENCH / "vsock" / "alone.py"), way, *words]
        return float(subprocess.run(command, capture_output=True, check=True).stdout)

    found = interleave({"device": once, "bare": lambda: once("bare")}, options.pairs, progress)
    return pairs_row(f"the device alone, {measure}", "us/MiB", found["device"], "socket", found["bare"])


def _guests(options: argparse.Namespace) -> list[Row]:
    command = lab.pyvmm(lab.initrd("vsock", lab.tool("wire"), [], WORKLOADS))
    commands = {
        "in process": [*command, "--vsock", f"{CID},path={PATH}"],
        "vhost": [*command, "--vsock", f"{CID},vhost"],
    }
    runs = lab.in_turn(options.boot_pairs, commands)
    found = lab.results("vsock/guest.py", runs, path=PATH, ports=PORTS)
    return lab.rows(WORKLOADS, found, "in process", "vhost")
