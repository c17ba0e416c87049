"""boot: Debian's stock cloud kernel to the first line of user space, in the emulated AMD-V host.

pyvmm and QEMU microvm take turns in one run of the lab: same kernel, initrd, command line, 256 MiB, one
CPU, console on ttyS0. Seconds from the process's start to the line on its stdout; exits
to user space by the tracepoint kvm:kvm_userspace_exit until then. The peer gets what is
best for it: the kernel as ELF (its bzImage takes 12 s more, unpacking in emulation) and
`rtc=on` (without it the kernel polls an RTC that is not there: 40,000 exits more).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import installed
from common import BENCH, Row, SkippedError, pairs_row, program, progress

from pyvmm.boot.bzimage import BzImage
from pyvmm.boot.payload import unpack_cached
from pyvmm.guests import cache
from pyvmm.guests.default import Guest, default_guest

LINE = "pyvmm guest ready"
CMDLINE = "console=ttyS0 panic=-1"
VARIANTS = {"boot": CMDLINE, "boot, quiet": f"{CMDLINE} quiet"}
#: Seconds for one boot; an emulated host hangs now and then, whole, and is then started again.
LIMIT = 60
#: Seconds more that an emulated host gets to say that a boot took too long.
GRACE = 30
#: Hosts in a row that may hang with no boot done.
ATTEMPTS = 3
TIME_TARGET = 1.0
EXITS_TARGET = 0.5


def measure(options: argparse.Namespace) -> list[Row]:
    pairs = options.boot_pairs
    commands = _commands(options)
    rounds = [(variant, who) for variant in VARIANTS for who in ("pyvmm", "qemu")]
    runs = [_warm_up(commands[variant, who]) for variant, who in rounds[:2]]
    for index in range(pairs):
        order = rounds if index % 2 == 0 else [rounds[1], rounds[0], rounds[3], rounds[2]]
        runs += [_run(f"{variant}:{who}", commands[variant, who]) for variant, who in order]
    results = _in_lab(runs, options)
    rows = []
    for variant in VARIANTS:
        ours, peer = ([r for r in results if r["name"] == f"{variant}:{who}"] for who in ("pyvmm", "qemu"))
        strict = variant == "boot"
        seconds = [[float(r["seconds"]) for r in some] for some in (ours, peer)]
        rows.append(pairs_row(variant, "s", seconds[0], "qemu", seconds[1], TIME_TARGET if strict else None))
        for kind in ("all", "io", "mmio"):
            counts = [[float(r["exits"][kind]) for r in some] for some in (ours, peer)]
            target = EXITS_TARGET if strict and kind == "all" else None
            rows.append(pairs_row(f"{variant}: exits, {kind}", "", counts[0], "qemu", counts[1], target))
    return rows


def breakdown(options: argparse.Namespace) -> dict[str, dict[str, int]]:
    """What the exits of one boot of each were for: by port and direction, or address."""
    commands = _commands(options)
    runs = [_run(who, commands["boot", who]) | {"trace": True} for who in ("pyvmm", "qemu")]
    return {str(result["name"]): dict(result["exits"]) for result in _in_lab(runs, options)}


def notes(options: argparse.Namespace) -> list[str]:
    return [
        f"in the lab, {options.boot_pairs} pairs, QEMU as -M {options.qemu_machine} with the kernel's ELF"
    ]


def _commands(options: argparse.Namespace) -> dict[tuple[str, str], list[str]]:
    guest = default_guest()
    pyvmm = str(installed.environment(progress) / "bin" / "pyvmm")
    qemu = program(options.qemu, "qemu-system-x86")
    elf = _elf(guest)
    commands = {}
    for variant, cmdline in VARIANTS.items():
        image = ["--kernel", guest.kernel, "--initrd", guest.initrd, "--cmdline", cmdline]
        commands[variant, "pyvmm"] = [pyvmm, "run", "--memory", "256M", *image]
        machine = f"-M {options.qemu_machine} -accel kvm -cpu host -m 256 -nodefaults -no-user-config"
        image = ["-kernel", elf, "-initrd", guest.initrd, "-append", cmdline]
        rest = "-display none -no-reboot -serial stdio"
        commands[variant, "qemu"] = [qemu, *machine.split(), *rest.split(), *image]
    return commands


def _elf(guest: Guest) -> str:
    """The kernel's ELF file, unpacked, in the cache."""

    def make(place: Path) -> None:
        place.write_bytes(unpack_cached(BzImage(memoryview(Path(guest.kernel).read_bytes())).payload))

    return str(cache.entry(f"bench-vmlinux-{guest.release}", make))


def _run(name: str, command: list[str]) -> dict[str, Any]:
    return {"name": name, "command": command, "line": LINE, "limit": LIMIT}


def _warm_up(command: list[str]) -> dict[str, Any]:
    """Until the kernel speaks: files read, byte code and the unpacked kernel in their caches."""
    return _run("warm-up", command) | {"line": "Linux version"}


def _in_lab(runs: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Do *runs* in a lab machine of their own; the warm-ups' results are left out."""
    left, results, idle = list(runs), [], 0
    python = str(installed.environment(progress) / "bin" / "python")
    while left and idle < ATTEMPTS:
        idle += 1
        inside = [python, str(BENCH / "boot_guest.py"), json.dumps(left)]
        lab = [python, "-m", "pyvmm", "lab", "x86_64", "--fresh", "--", *inside]
        for result in _lines(lab):
            if result["seconds"] is None:
                tail = result["tail"].strip().split("\n")[-1]
                progress(f"{result['name']} did not come up ({tail}); again")
                break
            left.pop(0)
            if result["name"] != "warm-up":
                results.append(result)
                idle = 0
            progress(f"{result['name']}: {result['seconds']:.1f} s; {len(left)} to go")
        if left and left[0]["name"] != "warm-up":  # what is behind the warm-ups needs them anew
            left = [run for run in runs if run["name"] == "warm-up"] + left
    if left:
        raise SkippedError(
            "the guests did not come up in the lab; run it again, and see `pyvmm lab --status`"
        )
    return results


def _lines(lab: list[str]) -> Iterator[dict[str, Any]]:
    """The results as they come; they end early when the emulated host says nothing."""
    with subprocess.Popen(lab, stdout=subprocess.PIPE, text=True, env=_environment()) as process:
        assert process.stdout is not None
        watchdog = None
        try:
            while True:
                # A hung host does not keep its own limits: the watch is kept here.
                watchdog = threading.Timer(LIMIT + GRACE, process.kill)
                watchdog.start()
                line = process.stdout.readline()
                watchdog.cancel()
                if not line:
                    return
                yield json.loads(line)
        finally:
            if watchdog is not None:
                watchdog.cancel()
            process.kill()


def _environment() -> dict[str, str]:
    """The command line of a lab command is bounded, and so is its environment."""
    names = ("HOME", "PATH", "LANG", "TERM", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "PYVMM_CACHE")
    return {name: os.environ[name] for name in names if name in os.environ}
