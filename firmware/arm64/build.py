#!/usr/bin/env python3
"""Build the arm64 guest programs of this folder into ``bin/``.

``build.py [--out DIR]`` needs Debian's gcc-aarch64-linux-gnu and binutils-aarch64-linux-gnu, or any
tools called so; ``toolchain.txt`` holds the versions that made the files in ``bin/``.
``../common/builder.py`` has what all architectures share.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))
from builder import COMMON, Builder  # noqa: E402

CFLAGS = ["-mstrict-align", "-mbranch-protection=none", "-march=armv8-a"]
#: Where a program in RAM is linked for: clear of the device tree at the start.
RAM = 0x4020_0000


class Program(NamedTuple):
    """One file of ``bin/``. Modes: ``rom`` runs in a ROM at 0, ``flat`` and ``elf`` in RAM."""

    file: str
    source: str
    mode: str = "rom"


PROGRAMS = [
    *(Program(f"{name}.bin", f"{name}.S") for name in ("exit", "halt", "io_loop", "spin", "wfi")),
    *(
        Program(f"{name}.bin", f"{name}.c")
        for name in (
            "echo",
            "entry",
            "exceptions",
            "flood",
            "fw_cfg",
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


class Arm64(Builder):
    def make(self, program: Program, work: Path) -> bytes:  # type: ignore[override]
        """A ROM or a piece of memory, or the ELF file itself."""
        library, source = self.folder / "lib", self.folder / "src" / program.source
        sources = [source]
        if source.suffix == ".c":
            parts = [library / name for name in ("start.S", "console.c", "traps.c", "gic.c")]
            sources = [*parts, COMMON / "report.c", source]
        objects = []
        for number, path in enumerate(sources):
            objects.append(work / f"{number}.o")
            self.compile(path, program.file.partition(".")[0], objects[-1])
        linked = work / "program.elf"
        script = library / ("rom.ld" if program.mode == "rom" else "ram.ld")
        start = [] if program.mode == "rom" else [f"--defsym=START={RAM}"]
        self.link(linked, *start, "-T", script, *objects)
        return linked.read_bytes() if program.mode == "elf" else self.flatten(linked)


builder = Arm64(HERE, PROGRAMS, "aarch64-linux-gnu-", CFLAGS)

if __name__ == "__main__":
    builder.main()
