"""block: the block device alone, by the fake driver; and a guest's disk, in the emulated AMD-V host.

Alone: 4 KiB reads from page cache at random places, 80 a batch, microseconds of the device's own
thread; the fake driver's work is not counted. In the lab: pyvmm and QEMU microvm boot the same kernel and
initrd in turn, with the same file of RAM as a virtio-mmio disk, and the guest does the same transfers
past its page cache. Microseconds a transfer, so less is better.
"""

from __future__ import annotations

import argparse
import subprocess

import installed
import lab
from common import BENCH, Row, SkippedError, interleave, progress

#: Microseconds a 4 KiB read may cost: 100,000 a second.
ALONE_TARGET = 10.0
WORKLOADS = (
    lab.Workload("sequential read, 256 KiB", "read /dev/vda 262144 1 {ms} sequential", target=1.0),
    lab.Workload("sequential write, 256 KiB", "write /dev/vda 262144 1 {ms} sequential", target=1.0),
    lab.Workload("random read, 4 KiB, 8 jobs", "read /dev/vda 4096 8 {ms} random", target=2.0),
    lab.Workload("random write, 4 KiB, 8 jobs", "write /dev/vda 4096 8 {ms} random", target=2.0),
)
#: In the lab: on tmpfs, and no overlay before it, which hides that.
IMAGE, SIZE = "/dev/shm/bench-block.img", 256 << 20


def measure(options: argparse.Namespace) -> list[Row]:
    python = str(installed.environment(progress) / "bin" / "python")
    rows = [_alone(python, options)]
    try:
        rows += _guests(options)
    except SkippedError as error:
        progress("")
        print(f"\nblock: the part in the lab is skipped: {error}")
    return rows


def notes(options: argparse.Namespace) -> list[str]:
    return [
        f"in the lab, {options.boot_pairs} pairs; QEMU: virtio-blk-device, aio=threads, cache=writeback",
    ]


def _alone(python: str, options: argparse.Namespace) -> Row:
    def once() -> float:
        done = subprocess.run([python, str(BENCH / "block" / "alone.py")], capture_output=True, check=True)
        return float(done.stdout)

    samples = interleave({"block": once}, options.pairs, progress)["block"]
    middle = sorted(samples)[len(samples) // 2]
    return Row("4 KiB read, the device alone", "us", middle, target=ALONE_TARGET, samples={"pyvmm": samples})


def _guests(options: argparse.Namespace) -> list[Row]:
    initrd = lab.initrd("block", lab.tool("disk"), [], WORKLOADS)
    disk = f"if=none,id=disk,format=raw,aio=threads,cache=writeback,file={IMAGE}"
    commands = {
        "pyvmm": [*lab.pyvmm(initrd), "--disk", IMAGE],
        "qemu": [*lab.qemu(options, initrd), "-drive", disk, "-device", "virtio-blk-device,drive=disk"],
    }
    runs = lab.in_turn(options.boot_pairs, commands)
    found = lab.results("block/guest.py", runs, image=IMAGE, size=SIZE)
    return lab.rows(WORKLOADS, found, "pyvmm", "qemu")
