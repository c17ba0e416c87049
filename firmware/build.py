#!/usr/bin/env python3
"""Build the guest programs of this folder into ``bin/``.

``build.py [--out DIR]`` needs GNU as, ld, objcopy and gcc for x86-64. The result depends on
the sources and the tools' versions only: no time, path or debug information goes in.
``toolchain.txt`` holds the versions that made the files in ``bin/``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
PAGE = 4096
TOOLS = ("gcc", "as", "ld", "objcopy")
CFLAGS = [
    "-std=gnu11",
    "-Os",
    "-ffreestanding",
    "-fno-pic",
    "-fno-pie",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-mno-red-zone",
    "-mgeneral-regs-only",
    "-march=x86-64",
    "-fno-strict-aliasing",
    "-fno-tree-loop-distribute-patterns",
    "-fno-builtin",
    "-Wall",
    "-Wextra",
    "-Werror",
]
LDFLAGS = [
    "-nostdlib",
    "-static",
    "--build-id=none",
    "-z",
    "noexecstack",
    "-z",
    "max-page-size=4096",
    "-s",
    "--no-warn-rwx-segments",
]


class Program(NamedTuple):
    """One file of ``bin/``: the *source* under ``src/`` built in one *mode*.

    Modes: ``reset`` starts at the reset vector and is all assembly; ``prot``, ``long0`` and
    ``long3`` are C under lib/start.S in 32-bit protected mode and in long mode at CPL 0 and 3;
    ``elf32``, ``elf64`` and ``multiboot`` are ELF files. *size* is a ROM's least size.
    """

    file: str
    source: str
    mode: str
    size: int = PAGE


PROGRAMS = [
    # QEMU's microvm takes ROMs in multiples of 64 KiB only.
    Program("exit.bin", "reset/exit.S", "reset", 64 << 10),
    *(
        Program(f"{name}.bin", f"reset/{name}.S", "reset")
        for name in (
            "fw_cfg",
            "hlt",
            "io_loop",
            "no_emulation",
            "pci_probe",
            "poweroff_acpi",
            "real_mode",
            "reset_i8042",
            "spin",
            "triple_fault",
            "vmcall",
        )
    ),
    Program("hello32.bin", "hello.c", "prot"),
    Program("software_interrupt0.bin", "software_interrupt.c", "long0"),
    Program("software_interrupt3.bin", "software_interrupt.c", "long3"),
    Program("software_interrupt32.bin", "software_interrupt.c", "prot"),
    Program("paging32.bin", "paging32.c", "prot"),
    Program("protected.bin", "protected.c", "prot"),
    *(
        Program(f"{name}.bin", f"{name}.c", "long0")
        for name in (
            "apic_timer",
            "echo",
            "every_port",
            "exceptions",
            "flood",
            "ioapic_com1",
            "pic_timer",
            "rom_write",
            "smp",
            "sweep",
            "unmapped",
        )
    ),
    Program("user_mode.bin", "user_mode.c", "long3"),
    Program("system_call.bin", "system_call.c", "long3"),
    Program("unclaimed_ports.bin", "unclaimed_ports.c", "long3"),
    Program("virtio_hostile.bin", "virtio_hostile.c", "long3"),
    Program("virtio_rng.bin", "virtio_rng.c", "long3"),
    *(
        Program(f"{name}{level}.bin", f"{name}.c", f"long{level}")
        for name in ("hello", "mmio", "ports", "seam", "string_io")
        for level in (0, 3)
    ),
    Program("elf32.elf", "elf32.c", "elf32"),
    Program("elf64.elf", "elf64.c", "elf64"),
    Program("multiboot1.elf", "multiboot1.c", "multiboot"),
    Program("multiboot2.elf", "multiboot2.c", "multiboot"),
]


def main() -> None:
    """Build everything, and note the tools' versions when it goes into ``bin/``."""
    parser = argparse.ArgumentParser(description="Build the guest programs.")
    parser.add_argument(
        "--out", type=Path, default=HERE / "bin", help="folder for the results (default: bin/)"
    )
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
    lines = [
        subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
        for tool in TOOLS
    ]
    return "\n".join(lines) + "\n"


def build(program: Program) -> bytes:
    """The bytes of one program. CalledProcessError, after the tool's own message, where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if program.mode == "reset":
            return _rom(work, HERE / "src" / program.source, program.size)
        payload = _payload(work, program)
        if program.mode in ("elf32", "elf64", "multiboot"):
            return payload.read_bytes()
        _run("objcopy", "-O", "binary", payload, work / "payload.bin")
        size = (work / "payload.bin").stat().st_size
        return _rom(work, HERE / "lib" / "rom.S", _whole_pages(size + 512))


def _rom(work: Path, source: Path, size: int) -> bytes:
    rom_object, linked, flat = work / "rom.o", work / "rom.elf", work / "rom.bin"
    _run("as", "--64", "-I", HERE / "lib", "-I", work, "-o", rom_object, source)
    _run(
        "ld", *LDFLAGS, "-T", HERE / "lib" / "reset.ld", f"--defsym=ROM_SIZE={size}", "-o", linked, rom_object
    )
    _run("objcopy", "-O", "binary", linked, flat)
    return flat.read_bytes()


def _payload(work: Path, program: Program) -> Path:
    level = {"long0": 0, "long3": 3, "elf64": 0}.get(program.mode, 32)
    bits = "32" if level == 32 else "64"
    name = program.file.partition(".")[0]
    sources = [
        HERE / "lib" / "start.S",
        HERE / "lib" / "traps.S",
        HERE / "lib" / "traps.c",
        HERE / "lib" / "report.c",
    ]
    if level != 32:
        sources.append(HERE / "lib" / "paging.c")
    sources.append(HERE / "src" / program.source)
    beside = (HERE / "src" / program.source).with_suffix(".S")
    if beside.exists() and beside not in sources:
        sources.append(beside)
    objects = []
    for number, source in enumerate(sources):
        objects.append(work / f"{number}.o")
        if source.suffix == ".S":
            _run(
                "as", f"--{bits}", "--defsym", f"LEVEL={level}", "-I", HERE / "lib", "-o", objects[-1], source
            )
        else:
            defines = [f'-DPROGRAM="{name}"', f"-DLEVEL={level}"]
            _run("gcc", f"-m{bits}", *CFLAGS, *defines, "-I", HERE / "lib", "-c", "-o", objects[-1], source)
    payload = work / "payload.elf"
    emulation = "elf_i386" if bits == "32" else "elf_x86_64"
    start = ["-e", "entry"] if program.mode in ("elf32", "elf64") else []
    _run("ld", "-m", emulation, *LDFLAGS, *start, "-T", HERE / "lib" / "payload.ld", "-o", payload, *objects)
    return payload


def _whole_pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"firmware/build.py: {error}")
