"""What the build.py of either architecture does: its tools, their common options, and the way into ``bin/``.

The result depends on the sources and the tools' versions only: no time, path or debug information goes in.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

COMMON = Path(__file__).resolve().parent
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
    "-fno-strict-aliasing",
    "-fno-tree-loop-distribute-patterns",
    "-fno-builtin",
    "-Wall",
    "-Wextra",
    "-Werror",
]
LDFLAGS = ["-nostdlib", "-static", "--build-id=none", "-z", "noexecstack", "-s", "--no-warn-rwx-segments"]


class Program(Protocol):
    """One file of ``bin/``."""

    @property
    def file(self) -> str: ...


class Builder:
    """Builds the *programs* of *folder*, from its ``src/`` and ``lib/`` and what is common.

    :param prefix: what the tools' names begin with
    :ivar compiler: the C compiler's name, which may have a version behind it (``gcc-12``)
    :param cflags: options of the compiler's besides CFLAGS
    """

    def __init__(self, folder: Path, programs: Sequence[Program], prefix: str, cflags: Sequence[str]) -> None:
        self.folder = folder
        self.programs = programs
        self.prefix = prefix
        self.compiler = f"{prefix}gcc"
        self._cflags = [*CFLAGS, *cflags]

    def make(self, program: Program, work: Path) -> bytes:
        """The bytes of *program*, made in the empty folder *work*."""
        raise NotImplementedError

    def build(self, program: Program) -> bytes:
        """The bytes of *program*. CalledProcessError, after the tool's own message, where it fails."""
        with tempfile.TemporaryDirectory() as work:
            return self.make(program, Path(work))

    def toolchain(self) -> str:
        """The first line of each tool's ``--version``, one a line. OSError where a tool is missing."""
        lines = []
        for tool in TOOLS:
            done = subprocess.run([self._path(tool), "--version"], capture_output=True, text=True, check=True)
            lines.append(done.stdout.splitlines()[0])
        return "\n".join(lines) + "\n"

    def run(self, tool: str, *words: str | Path) -> None:
        subprocess.run([self._path(tool), *map(str, words)], check=True, stdin=subprocess.DEVNULL)

    def _path(self, tool: str) -> str:
        return self.compiler if tool == "gcc" else self.prefix + tool

    def compile(self, source: Path, name: str, out: Path, *options: str) -> None:
        """*source* of the program called *name*."""
        places = ["-I", self.folder / "lib", "-I", COMMON]
        self.run("gcc", *self._cflags, f'-DPROGRAM="{name}"', *options, *places, "-c", "-o", out, source)

    def link(self, out: Path, *words: str | Path) -> None:
        self.run("ld", *LDFLAGS, *words, "-o", out)

    def flatten(self, linked: Path) -> bytes:
        """What *linked* is in memory."""
        flat = linked.with_suffix(".bin")
        self.run("objcopy", "-O", "binary", linked, flat)
        return flat.read_bytes()

    def main(self) -> None:
        """Build everything, and note the tools' versions when it goes into ``bin/``."""
        own = self.folder / "bin"
        parser = argparse.ArgumentParser(description="Build the guest programs of this folder.")
        parser.add_argument("--out", type=Path, default=own, help="folder for the results (default: bin/)")
        parser.add_argument("--cc", default=self.compiler, help="the C compiler (default: %(default)s)")
        options = parser.parse_args()
        out: Path = options.out
        self.compiler = options.cc
        try:
            out.mkdir(parents=True, exist_ok=True)
            for program in self.programs:
                (out / program.file).write_bytes(self.build(program))
            if out == own:
                for stale in {path.name for path in out.iterdir()} - {one.file for one in self.programs}:
                    (out / stale).unlink()
                (self.folder / "toolchain.txt").write_text(self.toolchain())
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"{sys.argv[0]}: {error}")
