"""Guests in the emulated host: what they boot, what they do, how they are run, what comes back of it.

Each benchmark that runs there has a program for its inside (``block/guest.py``, ...), which gets a JSON
object: ``runs``, a list of ``{"name", "command", "line", "limit", ...}``, and what else the benchmark gives
it. It prints a JSON line a run; one with ``tail``, the console's last lines, is of a run that failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import installed
from common import BENCH, ROOT, Row, SkippedError, pairs_row, program, progress

from pyvmm.boot.payload import unpack_cached
from pyvmm.boot.x86.bzimage import BzImage
from pyvmm.images import cache, cpio
from pyvmm.images.default import default_guest
from pyvmm.images.guest_files import GuestFiles

#: A guest that has done its workloads says this.
LINE = "bench over"
CMDLINE = "console=ttyS0 quiet panic=-1"
#: Seconds a guest with workloads gets, from its start to the last of them.
LIMIT = 120
#: Milliseconds of each workload, and those it runs before to warm up.
TIME, WARM = 3000, 300
#: Seconds more that an emulated host gets to say that a run took too long: it hangs now and then, whole.
GRACE = 30
#: The emulated host's CPUs, where not its default: ``scripts/bench/run --lab-cpus`` sets it.
cpus: int | None = None
#: Runs in a row that may fail; each failure gets a host of its own.
ATTEMPTS = 3


@dataclass(frozen=True)
class Workload:
    """What a guest's tool does: it prints a count and the microseconds that took.

    *command* has ``{ms}`` for its milliseconds. The figure is microseconds a *scale* of counts, *target*
    the most it may be of the peer's.
    """

    name: str
    command: str
    unit: str = "us"
    scale: int = 1
    target: float | None = None


def elf(guest: GuestFiles) -> str:
    """The kernel's ELF file, unpacked, in the cache: QEMU takes 12 s more for a bzImage."""

    def make(place: Path) -> None:
        place.write_bytes(unpack_cached(BzImage(memoryview(Path(guest.kernel).read_bytes())).payload))

    return str(cache.entry(f"bench-vmlinux-{guest.release}", make))


def pyvmm(
    initrd: str | None = None, cmdline: str | None = CMDLINE, guest: GuestFiles | None = None
) -> list[str]:
    """The installed pyvmm with *guest* or the default one; *initrd* and *cmdline* in the place of its own."""
    guest = guest or default_guest()
    command = str(installed.environment(progress) / "bin" / "pyvmm")
    image = ["--kernel", guest.kernel, "--initrd", initrd or guest.initrd]
    if cmdline is not None:
        image += ["--cmdline", cmdline]
    return [command, "run", "--memory", "256M", *image]


def qemu(options: argparse.Namespace, initrd: str | None = None, cmdline: str = CMDLINE) -> list[str]:
    """QEMU with the same. Raises SkippedError."""
    guest = default_guest()
    command = program(options.qemu, "qemu-system-x86")
    machine = f"-M {options.qemu_machine} -accel kvm -cpu host -m 256 -nodefaults -no-user-config"
    rest = "-display none -no-reboot -serial stdio"
    image = ["-kernel", elf(guest), "-initrd", initrd or guest.initrd, "-append", cmdline]
    return [command, *machine.split(), *rest.split(), *image]


def initrd(
    name: str, tool: Path, before: list[str], workloads: tuple[Workload, ...], warm: int = WARM
) -> str:
    """The default guest's initrd, and behind it *tool* and what it is to do after the lines *before*."""
    lines = list(before)
    for workload in workloads:
        first, timed = (f"{tool.stem} {workload.command.format(ms=ms)}" for ms in (warm, TIME))
        lines += [f"{first} >/dev/null", f"echo result $({timed})"]
    script = "".join(f"{line}\n" for line in [*lines, f"echo {LINE}"])
    extra = cpio.archive(
        [
            cpio.file(f"bin/{tool.stem}", tool.read_bytes(), 0o755),
            cpio.file("etc/pyvmm/setup", f"exec >/dev/console 2>&1\n{script}".encode()),
        ]
    )
    place = cache.directory() / f"bench-{name}.cpio"
    data = Path(default_guest().initrd).read_bytes()
    place.write_bytes(data + bytes(-len(data) % 4) + extra)
    return str(place)


def tool(name: str) -> Path:
    """A program for guests out of firmware/guest/tools."""
    return ROOT / "firmware" / "guest" / "tools" / f"{name}.x86_64"


def run(name: str, command: list[str], line: str = LINE, limit: int = LIMIT) -> dict[str, Any]:
    return {"name": name, "command": command, "line": line, "limit": limit}


def warm_up(command: list[str]) -> dict[str, Any]:
    """Until the kernel (not ``quiet``) speaks: files, byte code and the unpacked kernel in their caches."""
    return run("warm-up", command, "Linux version")


def in_turn(pairs: int, *groups: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The commands of each of *groups*, *pairs* times, every other time the other way round."""
    turns = []
    for index in range(pairs):
        for commands in groups:
            turns += [run(who, commands[who]) for who in list(commands)[:: -1 if index % 2 else 1]]
    return turns


def results(
    script: str, runs: list[dict[str, Any]], arch: str = "x86_64", **setting: Any
) -> list[dict[str, Any]]:
    """What *script* says of *runs*, in a lab machine of its own; the warm-ups' results are left out.

    Raises SkippedError.
    """
    left, found, idle, why = list(runs), [], 0, ""
    python = str(installed.environment(progress) / "bin" / "python")
    while left and idle < ATTEMPTS:
        idle += 1
        # What scripts share lies in scripts/bench.
        inside = ["env", f"PYTHONPATH={BENCH}", python, str(BENCH / script)]
        inside.append(json.dumps({"runs": left, **setting}))
        count = ["--cpus", str(cpus)] if cpus else []
        lab = [python, "-m", "pyvmm", "lab", arch, "--fresh", *count, "--", *inside]
        progress("guests in the lab")
        for result in _lines(lab, max(one["limit"] for one in left) + GRACE):
            if "tail" in result:
                why = f": {result['name']} said {result['tail'].strip()[-200:]!r}"
                progress(f"{result['name']} did not come up; again")
                break
            left.pop(0)
            if result["name"] != "warm-up":
                found.append(result)
                idle = 0
            progress(f"{result['name']}; {len(left)} to go")
        if left and left[0]["name"] != "warm-up":  # the entries after the warm-ups need them again
            left = [one for one in runs if one["name"] == "warm-up"] + left
    if left:
        raise SkippedError(
            f"the guests did not come up in the lab; run it again, and see `pyvmm lab --status`{why}"
        )
    return found


def rows(
    workloads: tuple[Workload, ...], found: list[dict[str, Any]], ours: str, peer: str, suffix: str = ""
) -> list[Row]:
    """A row a workload of the runs named *ours* and *peer*."""
    samples = [[result["us"] for result in found if result["name"] == who] for who in (ours, peer)]
    return [
        pairs_row(
            workload.name + suffix,
            workload.unit,
            [us[index] * workload.scale for us in samples[0]],
            peer,
            [us[index] * workload.scale for us in samples[1]],
            workload.target,
        )
        for index, workload in enumerate(workloads)
    ]


def _lines(lab: list[str], patience: float) -> Iterator[dict[str, Any]]:
    """The results as they come; they end early when the emulated host says nothing for *patience* seconds."""
    with subprocess.Popen(lab, stdout=subprocess.PIPE, text=True, env=_environment()) as process:
        assert process.stdout is not None
        watchdog = None
        try:
            while True:
                # A hung host does not keep its own limits: the watch is kept here.
                watchdog = threading.Timer(patience, process.kill)
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
