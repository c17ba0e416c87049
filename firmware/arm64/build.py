#!/usr/bin/env python3
"""Build the arm64 guest programs of this folder into ``bin/``.

``build.py [--out DIR]`` needs Debian's gcc-aarch64-linux-gnu and binutils-aarch64-linux-gnu, or any
tools called so. The result depends on the sources and the tools' versions only; ``toolchain.txt``
holds the versions that made the files in ``bin/``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
PREFIX = "aarch64-linux-gnu-"
TOOLS = ("gcc", "as", "ld", "objcopy")
CFLAGS = [
    "-std=gnu11",
    "-Os",
    "-ffreestanding",
    "-fno-pic",
    "-fno-pie",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-mgeneral-regs-only",
    "-mstrict-align",
    "-mbranch-protection=none",
    "-march=armv8-a",
    "-fno-strict-aliasing",
    "-fno-tree-loop-distribute-patterns",
    "-fno-builtin",
    "-Wall",
    "-Wextra",
    "-Werror",
]
LDFLAGS = ["-nostdlib", "-static", "--build-id=none", "-z", "noexecstack", "-s", "--no-warn-rwx-segments"]
LIBRARY = ("start.S", "report.c", "gic.c")
#: Where a program in RAM is linked for: clear of the device tree at the start.
RAM = 0x4020_0000


class Program(NamedTuple):
    """One file of ``bin/``. Modes: ``rom`` runs in a ROM at 0, ``flat`` and ``elf`` in RAM."""

    file: str
    source: str
    mode: str = "rom"


PROGRAMS = [
    *(Program(f"{name}.bin", f"{name}.S") for name in ("exit", "io_loop", "spin", "wfi")),
    *(
        Program(f"{name}.bin", f"{name}.c")
        for name in (
            "echo",
            "entry",
            "exceptions",
            "flood",
            "gic_sgi",
            "gic_uart",
            "hello",
            "mmio",
            "no_syndrome",
            "poweroff",
            "psci",
            "reset",
            "rom_write",
            "rtc",
            "smp",
            "sweep",
            "timer",
            "unmapped",
            "watchdog",
        )
    ),
    Program("flat.bin", "entry.c", "flat"),
    Program("elf64.elf", "entry.c", "elf"),
]


def main() -> None:
    """Build everything, and note the tools' versions when it goes into ``bin/``."""
    parser = argparse.ArgumentParser(description="Build the arm64 guest programs.")
    parser.add_argument("--out", type=Path, default=HERE / "bin", help="folder for results (default: bin/)")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for program in PROGRAMS:
        (out / program.file).write_bytes(build(program))
    if out == HERE / "bin":
        for stale in {path.name for path in out.iterdir()} - {program.file for program in PROGRAMS}:
            (out / stale).unlink()
        (HERE / "toolchain.txt").write_text(toolchain())


def toolchain() -> str:
    """The first line of each tool's ``--version``, one a line. OSError where a tool is missing."""
    lines = []
    for tool in TOOLS:
        done = subprocess.run([PREFIX + tool, "--version"], capture_output=True, text=True, check=True)
        lines.append(done.stdout.splitlines()[0])
    return "\n".join(lines) + "\n"


def build(program: Program) -> bytes:
    """The bytes of one program. CalledProcessError, after the tool's own message, where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = HERE / "src" / program.source
        sources = [source]
        if source.suffix == ".c":
            sources = [*(HERE / "lib" / name for name in LIBRARY), source]
        objects = []
        for number, path in enumerate(sources):
            objects.append(work / f"{number}.o")
            name = program.file.partition(".")[0]
            defines = [f'-DPROGRAM="{name}"'] if path.suffix == ".c" else []
            _run("gcc", *CFLAGS, *defines, "-I", HERE / "lib", "-c", "-o", objects[-1], path)
        linked = work / "program.elf"
        script = HERE / "lib" / ("rom.ld" if program.mode == "rom" else "ram.ld")
        start = [] if program.mode == "rom" else [f"--defsym=START={RAM}"]
        _run("ld", *LDFLAGS, *start, "-T", script, "-o", linked, *objects)
        if program.mode == "elf":
            return linked.read_bytes()
        flat = work / "program.bin"
        _run("objcopy", "-O", "binary", linked, flat)
        return flat.read_bytes()


def _run(tool: str, *arguments: str | Path) -> None:
    subprocess.run([PREFIX + tool, *map(str, arguments)], check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"firmware/arm64/build.py: {error}")
