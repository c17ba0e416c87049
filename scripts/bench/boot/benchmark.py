"""boot: Debian's stock cloud kernel to the first line of user space, in the emulated AMD-V host.

pyvmm and QEMU microvm take turns in one run of the lab: same kernel, initrd, command line, 256 MiB, one
CPU, console on ttyS0. Seconds from the process's start to the line on its stdout; exits
to user space by the tracepoint kvm:kvm_userspace_exit until then. The peer gets what is
best for it: the kernel as ELF (its bzImage takes 12 s more, unpacking in emulation) and
`rtc=on` (without it the kernel polls an RTC that is not there: 40,000 exits more).
"""

from __future__ import annotations

import argparse
from typing import Any

import lab
from common import Row, pairs_row

LINE = "pyvmm guest ready"
CMDLINE = "console=ttyS0 panic=-1"
VARIANTS = {"boot": CMDLINE, "boot, quiet": f"{CMDLINE} quiet"}
#: Seconds for one boot.
LIMIT = 60
TIME_TARGET = 1.0
EXITS_TARGET = 0.5


def measure(options: argparse.Namespace) -> list[Row]:
    return compare(_commands(options), options.boot_pairs, ("all", "io", "mmio"), EXITS_TARGET)


def compare(
    commands: dict[tuple[str, str], list[str]],
    pairs: int,
    kinds: tuple[str, ...],
    exits_target: float,
    arch: str = "x86_64",
    limit: int = LIMIT,
) -> list[Row]:
    """Rows of seconds and of exits by *kinds* for each variant of *commands*, by ``(variant, who)``.

    The variant "boot" is held to the targets.
    """
    rounds = list(commands)
    variants = list(dict.fromkeys(variant for variant, _ in rounds))
    runs = [lab.warm_up(commands[variant, who]) for variant, who in rounds[:2]]
    for index in range(pairs):
        order = rounds if index % 2 == 0 else [rounds[1], rounds[0], rounds[3], rounds[2]]
        runs += [run(f"{variant}:{who}", commands[variant, who], limit) for variant, who in order]
    results = lab.results("boot/guest.py", runs, arch)
    rows = []
    for variant in variants:
        ours, peer = ([r for r in results if r["name"] == f"{variant}:{who}"] for who in ("pyvmm", "qemu"))
        strict = variant == "boot"
        seconds = [[float(r["seconds"]) for r in some] for some in (ours, peer)]
        rows.append(pairs_row(variant, "s", seconds[0], "qemu", seconds[1], TIME_TARGET if strict else None))
        for kind in kinds:
            counts = [[float(r["exits"][kind]) for r in some] for some in (ours, peer)]
            target = exits_target if strict and kind == "all" else None
            rows.append(pairs_row(f"{variant}: exits, {kind}", "", counts[0], "qemu", counts[1], target))
    return rows


def breakdown(options: argparse.Namespace) -> dict[str, dict[str, int]]:
    """What the exits of one boot of each were for: by port and direction, or address."""
    commands = _commands(options)
    runs = [run(who, commands["boot", who]) | {"trace": True} for who in ("pyvmm", "qemu")]
    return {str(result["name"]): dict(result["exits"]) for result in lab.results("boot/guest.py", runs)}


def notes(options: argparse.Namespace) -> list[str]:
    return [
        f"in the lab, {options.boot_pairs} pairs, QEMU as -M {options.qemu_machine} with the kernel's ELF"
    ]


def run(name: str, command: list[str], limit: int = LIMIT) -> dict[str, Any]:
    """A boot to user space's first line."""
    return lab.run(name, command, LINE, limit)


def _commands(options: argparse.Namespace) -> dict[tuple[str, str], list[str]]:
    commands = {}
    for variant, cmdline in VARIANTS.items():
        commands[variant, "pyvmm"] = lab.pyvmm(cmdline=cmdline)
        commands[variant, "qemu"] = lab.qemu(options, cmdline=cmdline)
    return commands
