"""block: the block device alone, by the fake driver; and a guest's disk, in the emulated AMD-V host.

Alone: 4 KiB reads from page cache at random places, 80 a batch, microseconds of the device's own
thread; the fake driver's work is not counted. In the lab: pyvmm and QEMU microvm boot the same kernel and
initrd in turn, with the same file of RAM as a virtio-mmio disk, and the guest does the same transfers
past its page cache. Microseconds a transfer, so less is better.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import installed
from boot import _elf
from common import BENCH, ROOT, Row, SkippedError, interleave, pairs_row, program, progress

from pyvmm.guests import cache, cpio
from pyvmm.guests.default import default_guest

#: Microseconds a 4 KiB read may cost: 100,000 a second.
ALONE_TARGET = 10.0
#: Name, what firmware/tools/disk gets, the most it may take of the peer's time.
WORKLOADS = (
    ("sequential read, 256 KiB", "read {disk} 262144 1 {ms} sequential", 1.0),
    ("sequential write, 256 KiB", "write {disk} 262144 1 {ms} sequential", 1.0),
    ("random read, 4 KiB, 8 jobs", "read {disk} 4096 8 {ms} random", 2.0),
    ("random write, 4 KiB, 8 jobs", "write {disk} 4096 8 {ms} random", 2.0),
)
#: Milliseconds of each workload, and those it runs before to warm up.
TIME, WARM = 3000, 300
SIZE = 256 << 20
LINE = "bench over"
CMDLINE = "console=ttyS0 quiet panic=-1"
#: Seconds one guest gets, from its start to the last workload.
LIMIT = 120


def measure(options: argparse.Namespace) -> list[Row]:
    python = str(installed.environment(progress) / "bin" / "python")
    rows = [_alone(python, options)]
    try:
        rows += _guests(python, options)
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
        done = subprocess.run([python, str(BENCH / "block_alone.py")], capture_output=True, check=True)
        return float(done.stdout)

    samples = interleave({"block": once}, options.pairs, progress)["block"]
    middle = sorted(samples)[len(samples) // 2]
    return Row("4 KiB read, the device alone", "us", middle, target=ALONE_TARGET, samples={"pyvmm": samples})


def _guests(python: str, options: argparse.Namespace) -> list[Row]:
    commands = _commands(options)
    order = [("pyvmm", "qemu"), ("qemu", "pyvmm")]
    turns = [who for index in range(options.boot_pairs) for who in order[index % 2]]
    runs = [{"name": who, "command": commands[who]} for who in turns]
    job = {"runs": runs, "size": SIZE, "line": LINE, "limit": LIMIT, "workloads": len(WORKLOADS)}
    inside = [python, str(BENCH / "block_guest.py"), json.dumps(job)]
    lab = [python, "-m", "pyvmm", "lab", "x86_64", "--fresh", "--", *inside]
    progress("guests in the lab")
    try:
        done = subprocess.run(
            lab,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=2 * LIMIT * (1 + len(runs)),
            env={name: os.environ[name] for name in ("HOME", "PATH", "XDG_CACHE_HOME") if name in os.environ},
        )
    except subprocess.TimeoutExpired:
        raise SkippedError("the emulated host hung; run it again") from None
    results: dict[str, list[list[float]]] = {"pyvmm": [], "qemu": []}
    for line in done.stdout.splitlines():
        result: dict[str, Any] = json.loads(line)
        if len(result["us"]) != len(WORKLOADS):
            raise SkippedError(f"{result['name']}'s guest did not finish: {result['tail'][-200:]}")
        results[result["name"]].append(result["us"])
    if not results["qemu"] or len(results["pyvmm"]) != len(results["qemu"]):
        raise SkippedError("the guests did not come up in the lab; run it again")
    return [
        pairs_row(
            name,
            "us",
            [us[index] for us in results["pyvmm"]],
            "qemu",
            [us[index] for us in results["qemu"]],
            target,
        )
        for index, (name, _, target) in enumerate(WORKLOADS)
    ]


def _commands(options: argparse.Namespace) -> dict[str, list[str]]:
    guest = default_guest()
    pyvmm = str(installed.environment(progress) / "bin" / "pyvmm")
    qemu = program(options.qemu, "qemu-system-x86")
    initrd = str(_initrd(Path(guest.initrd)))
    image = "@IMAGE@"
    ours = [pyvmm, "run", "--memory", "256M", "--kernel", guest.kernel, "--initrd", initrd]
    ours += ["--cmdline", CMDLINE, "--disk", image]
    machine = f"-M {options.qemu_machine} -accel kvm -cpu host -m 256 -nodefaults -no-user-config"
    theirs = [qemu, *machine.split(), "-display", "none", "-no-reboot", "-serial", "stdio"]
    theirs += ["-kernel", _elf(guest), "-initrd", initrd, "-append", CMDLINE]
    theirs += ["-drive", f"if=none,id=disk,format=raw,aio=threads,cache=writeback,file={image}"]
    theirs += ["-device", "virtio-blk-device,drive=disk"]
    return {"pyvmm": ours, "qemu": theirs}


def _initrd(ours: Path) -> Path:
    """The default guest's initrd, and behind it what it is to do."""
    lines: list[str] = []
    for _, words, _ in WORKLOADS:
        warm, timed = (f"disk {words.format(disk='/dev/vda', ms=ms)}" for ms in (WARM, TIME))
        lines += [f"{warm} >/dev/null", f"echo result $({timed})"]
    script = "".join(f"{line}\n" for line in [*lines, f"echo {LINE}"])
    extra = cpio.archive(
        [
            cpio.file("bin/disk", (ROOT / "firmware" / "tools" / "disk.x86_64").read_bytes(), 0o755),
            cpio.file("etc/pyvmm/setup", f"exec >/dev/console 2>&1\n{script}".encode()),
        ]
    )
    place = cache.directory() / "bench-block.cpio"
    data = ours.read_bytes()
    place.write_bytes(data + bytes(-len(data) % 4) + extra)
    return place
