"""net: the in-process switch alone, by the fake driver; and TCP and small packets over a tap, in the lab.

Alone: frames of 64 KiB from guest to guest, microseconds of the devices' own work. In the lab: pyvmm and QEMU
microvm boot the same kernel and initrd in turn, on the same tap (virtio-net-device), and the guest does the
same; then both again with vhost-net. Microseconds a MiB, a datagram answered or sent: less is better.
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

#: Microseconds a frame of 64 KiB may take: 20 Gbit/s.
ALONE_TARGET = 65536 * 8 / 20e3
HOST, GUEST, TAP = "192.0.2.1", "192.0.2.2", "bench0"
#: Name, what firmware/tools/wire gets, its unit and how many counts that is, the most of the peer's time.
WORKLOADS = (
    ("TCP from the host", "in", "us/MiB", 1 << 20, 1.0),
    ("TCP to the host", "out", "us/MiB", 1 << 20, 1.0),
    ("UDP, 64 bytes there and back", "echo", "us", 1, 2.0),
    ("UDP, 64 bytes to the host", "flood", "us", 1, 2.0),
)
#: With vhost-net the kernel does the work for both.
VHOST_TARGET = 1 / 0.95
WAYS = ("", " vhost")
PORTS = {kind: 7000 + number for number, (_, kind, *_) in enumerate(WORKLOADS)}
#: Milliseconds of each workload, and those it runs before to warm up.
TIME, WARM = 3000, 500
LINE = "bench over"
CMDLINE = "console=ttyS0 quiet panic=-1"
#: Seconds one guest gets, from its start to the last workload.
LIMIT = 120


def measure(options: argparse.Namespace) -> list[Row]:
    python = str(installed.environment(progress) / "bin" / "python")
    rows = [
        _alone("64 KiB frame through the switch", python, options),
        _alone("the same into buffers of 64 KiB", python, options, "whole"),
    ]
    try:
        rows += _guests(python, options)
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
        command = [python, str(BENCH / "net_alone.py"), *words]
        return float(subprocess.run(command, capture_output=True, check=True).stdout)

    samples = interleave({"switch": once}, options.pairs, progress)["switch"]
    middle = sorted(samples)[len(samples) // 2]
    return Row(measure, "us", middle, target=ALONE_TARGET, samples={"pyvmm": samples})


def _guests(python: str, options: argparse.Namespace) -> list[Row]:
    commands = _commands(options)
    order = [("pyvmm", "qemu"), ("qemu", "pyvmm")]
    turns = [who + way for index in range(options.boot_pairs) for way in WAYS for who in order[index % 2]]
    runs = [{"name": who, "command": commands[who]} for who in turns]
    job = {"runs": runs, "line": LINE, "limit": LIMIT, "tap": TAP, "address": HOST, "ports": PORTS}
    inside = [python, str(BENCH / "net_guest.py"), json.dumps(job)]
    lab = [python, "-m", "pyvmm", "lab", "x86_64", "--fresh", "--", *inside]
    progress("guests in the lab")
    try:
        done = subprocess.run(
            lab,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=120 + LIMIT * len(runs),
            env={name: os.environ[name] for name in ("HOME", "PATH", "XDG_CACHE_HOME") if name in os.environ},
        )
    except subprocess.TimeoutExpired:
        raise SkippedError("the emulated host hung; run it again") from None
    return rows(done.stdout.splitlines())


def rows(lines: list[str]) -> list[Row]:
    """The rows of what ``net_guest.py`` prints."""
    results: dict[str, list[list[float]]] = {who + way: [] for way in WAYS for who in ("pyvmm", "qemu")}
    for line in lines:
        result: dict[str, Any] = json.loads(line)
        if len(result["us"]) != len(WORKLOADS):
            raise SkippedError(f"{result['name']}'s guest did not finish: {result['tail'][-200:]}")
        results[result["name"]].append(result["us"])
    if len({len(found) for found in results.values()}) != 1 or not results["qemu"]:
        raise SkippedError("the guests did not come up in the lab; run it again")
    found = []
    for way in WAYS:
        ours, theirs = results["pyvmm" + way], results["qemu" + way]
        for n, (name, _, unit, scale, target) in enumerate(WORKLOADS):
            samples = [[us[n] * scale for us in some] for some in (ours, theirs)]
            target = VHOST_TARGET if way else target
            found.append(pairs_row(name + way, unit, samples[0], "qemu" + way, samples[1], target))
    return found


def _commands(options: argparse.Namespace) -> dict[str, list[str]]:
    guest = default_guest()
    pyvmm = str(installed.environment(progress) / "bin" / "pyvmm")
    qemu = program(options.qemu, "qemu-system-x86")
    initrd = str(_initrd(Path(guest.initrd)))
    ours = [pyvmm, "run", "--memory", "256M", "--kernel", guest.kernel, "--initrd", initrd]
    ours += ["--cmdline", CMDLINE, "--net"]
    machine = f"-M {options.qemu_machine} -accel kvm -cpu host -m 256 -nodefaults -no-user-config"
    theirs = [qemu, *machine.split(), "-display", "none", "-no-reboot", "-serial", "stdio"]
    theirs += ["-kernel", _elf(guest), "-initrd", initrd, "-append", CMDLINE]
    theirs += ["-device", "virtio-net-device,netdev=net", "-netdev"]
    commands = {}
    for way, (word, switch) in zip(WAYS, (("", "off"), (",vhost", "on")), strict=True):
        commands["pyvmm" + way] = [*ours, f"tap,ifname={TAP}{word}"]
        netdev = f"tap,id=net,ifname={TAP},script=no,downscript=no,vhost={switch}"
        commands["qemu" + way] = [*theirs, netdev]
    return commands


def _initrd(ours: Path) -> Path:
    """The default guest's initrd, and behind it what it is to do."""
    lines = [
        f"ip addr add {GUEST}/24 dev eth0; ip link set eth0 up",
        f"until ping -c 1 -W 1 {HOST} >/dev/null; do :; done",
    ]
    for _, kind, *_ in WORKLOADS:
        warm, timed = (f"wire {kind} {HOST} {PORTS[kind]} {ms}" for ms in (WARM, TIME))
        lines += [f"{warm} >/dev/null", f"echo result $({timed})"]
    script = "".join(f"{line}\n" for line in [*lines, f"echo {LINE}"])
    extra = cpio.archive(
        [
            cpio.file("bin/wire", (ROOT / "firmware" / "tools" / "wire.x86_64").read_bytes(), 0o755),
            cpio.file("etc/pyvmm/setup", f"exec >/dev/console 2>&1\n{script}".encode()),
        ]
    )
    place = cache.directory() / "bench-net.cpio"
    data = ours.read_bytes()
    place.write_bytes(data + bytes(-len(data) % 4) + extra)
    return place
