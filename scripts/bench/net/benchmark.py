"""net: the in-process switch alone, by the fake driver; and TCP and small packets over a tap, in the lab.

Alone: frames of 64 KiB from guest to guest, microseconds of the devices' own work. In the lab: pyvmm and QEMU
microvm boot the same kernel and initrd in turn, on the same tap (virtio-net-device), and the guest does the
same; then both again with vhost-net. Microseconds a MiB, a datagram answered or sent: less is better.
"""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import replace

import installed
import lab
from common import BENCH, Row, SkippedError, interleave, progress

#: Microseconds a frame of 64 KiB may take: 20 Gbit/s.
ALONE_TARGET = 65536 * 8 / 20e3
HOST, GUEST, TAP = "192.0.2.1", "192.0.2.2", "bench0"
PORTS = {"in": 7000, "out": 7001, "echo": 7002, "flood": 7003}


def _workload(name: str, kind: str, unit: str, scale: int, target: float) -> lab.Workload:
    return lab.Workload(name, f"{kind} {HOST} {PORTS[kind]} {{ms}}", unit, scale, target)


WORKLOADS = (
    _workload("TCP from the host", "in", "us/MiB", 1 << 20, 1.0),
    _workload("TCP to the host", "out", "us/MiB", 1 << 20, 1.0),
    _workload("UDP, 64 bytes there and back", "echo", "us", 1, 2.0),
    _workload("UDP, 64 bytes to the host", "flood", "us", 1, 2.0),
)
#: With vhost-net the kernel does the work for both.
VHOST_TARGET = 1 / 0.95
#: Milliseconds of a workload to warm up: TCP takes longer to.
WARM = 500


def measure(options: argparse.Namespace) -> list[Row]:
    python = str(installed.environment(progress) / "bin" / "python")
    rows = [
        _alone("64 KiB frame through the switch", python, options),
        _alone("the same into buffers of 64 KiB", python, options, "whole"),
    ]
    try:
        rows += _guests(options)
    except SkippedError as error:
        progress("")
        print(f"\nnet: the part in the lab is skipped: {error}")
    return rows


def notes(options: argparse.Namespace) -> list[str]:
    return [
        f"{ALONE_TARGET:.1f} us a frame of 64 KiB are 20 Gbit/s",
        f"in the lab, {options.boot_pairs} pairs; QEMU: virtio-net-device on the same tap",
    ]


def _alone(measure: str, python: str, options: argparse.Namespace, *words: str) -> Row:
    def once() -> float:
        command = [python, str(BENCH / "net" / "alone.py"), *words]
        return float(subprocess.run(command, capture_output=True, check=True).stdout)

    samples = interleave({"switch": once}, options.pairs, progress)["switch"]
    middle = sorted(samples)[len(samples) // 2]
    return Row(measure, "us", middle, target=ALONE_TARGET, samples={"pyvmm": samples})


def _guests(options: argparse.Namespace) -> list[Row]:
    before = [
        f"ip addr add {GUEST}/24 dev eth0; ip link set eth0 up",
        f"until ping -c 1 -W 1 {HOST} >/dev/null; do :; done",
    ]
    initrd = lab.initrd("net", lab.tool("wire"), before, WORKLOADS, WARM)
    ours, theirs = lab.pyvmm(initrd), lab.qemu(options, initrd)
    theirs += ["-device", "virtio-net-device,netdev=net", "-netdev"]
    netdev = f"tap,id=net,ifname={TAP},script=no,downscript=no"
    own = {"pyvmm": [*ours, "--net", f"tap,ifname={TAP}"], "qemu": [*theirs, f"{netdev},vhost=off"]}
    vhost = {
        "pyvmm vhost": [*ours, "--net", f"tap,ifname={TAP},vhost"],
        "qemu vhost": [*theirs, f"{netdev},vhost=on"],
    }
    runs = lab.in_turn(options.boot_pairs, own, vhost)
    found = lab.results("net/guest.py", runs, tap=TAP, address=HOST, ports=PORTS)
    by_kernel = tuple(replace(workload, target=VHOST_TARGET) for workload in WORKLOADS)
    return [
        *lab.rows(WORKLOADS, found, "pyvmm", "qemu"),
        *lab.rows(by_kernel, found, "pyvmm vhost", "qemu vhost", " vhost"),
    ]
