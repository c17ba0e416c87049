#!/usr/bin/env python3
"""Build the guest programs of this folder into ``bin/``.

``build.py [--out DIR]`` needs GNU as, ld, objcopy and gcc for x86-64; ``toolchain.txt`` holds the versions
that made the files in ``bin/``. ``common/builder.py`` has what all architectures share.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))
from builder import COMMON, Builder  # noqa: E402

PAGE = 4096
CFLAGS = ["-fcf-protection=none", "-mno-red-zone", "-march=x86-64"]
LDFLAGS = ["-z", "max-page-size=4096"]


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
            "halt",
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
            "fw_cfg_dma",
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


class X86(Builder):
    def make(self, program: Program, work: Path) -> bytes:  # type: ignore[override]
        """A ROM, or the ELF file itself."""
        if program.mode == "reset":
            return self._rom(work, self.folder / "src" / program.source, program.size)
        payload = self._payload(work, program)
        if program.mode in ("elf32", "elf64", "multiboot"):
            return payload.read_bytes()
        size = len(self.flatten(payload))
        return self._rom(work, self.folder / "lib" / "rom.S", _whole_pages(size + 512))

    def _rom(self, work: Path, source: Path, size: int) -> bytes:
        library, rom_object, linked = self.folder / "lib", work / "rom.o", work / "rom.elf"
        self.run("as", "--64", "-I", library, "-I", work, "-o", rom_object, source)
        self.link(linked, *LDFLAGS, "-T", library / "reset.ld", f"--defsym=ROM_SIZE={size}", rom_object)
        return self.flatten(linked)

    def _payload(self, work: Path, program: Program) -> Path:
        library, main = self.folder / "lib", self.folder / "src" / program.source
        level = {"long0": 0, "long3": 3, "elf64": 0}.get(program.mode, 32)
        bits = "32" if level == 32 else "64"
        name = program.file.partition(".")[0]
        sources = [library / one for one in ("start.S", "traps.S", "traps.c", "console.c")]
        sources.append(COMMON / "report.c")
        if level != 32:
            sources.append(library / "paging.c")
        sources.append(main)
        beside = main.with_suffix(".S")
        if beside.exists():
            sources.append(beside)
        objects = []
        for number, source in enumerate(sources):
            objects.append(work / f"{number}.o")
            if source.suffix == ".S":
                words = [f"--{bits}", "--defsym", f"LEVEL={level}", "-I", library]
                self.run("as", *words, "-o", objects[-1], source)
            else:
                self.compile(source, name, objects[-1], f"-m{bits}", f"-DLEVEL={level}")
        payload = work / "payload.elf"
        emulation = "elf_i386" if bits == "32" else "elf_x86_64"
        start = ["-e", "entry"] if program.mode in ("elf32", "elf64") else []
        self.link(payload, "-m", emulation, *LDFLAGS, *start, "-T", library / "payload.ld", *objects)
        return payload


def _whole_pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


builder = X86(HERE, PROGRAMS, "", CFLAGS)

if __name__ == "__main__":
    builder.main()
