"""Values of C expressions, found by compiling them against the kernel's headers: nothing is run.

So a cross compiler serves as well as the host's own.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

COMPILERS = {"x86_64": "gcc", "aarch64": "aarch64-linux-gnu-gcc"}
PACKAGES = {"x86_64": "gcc linux-libc-dev", "aarch64": "gcc-aarch64-linux-gnu linux-libc-dev-arm64-cross"}
HEADER = "#include <stddef.h>\n#include <linux/kvm.h>\n#include <asm/ptrace.h>\n"


def compiler_for(machine: str) -> str:
    """The compiler for *machine*; skips the test where it, or <linux/kvm.h>, is missing."""
    compiler = shutil.which(COMPILERS[machine])
    if compiler is not None:
        command = [compiler, "-fsyntax-only", "-xc", "-"]
        if subprocess.run(command, input=HEADER, text=True, capture_output=True).returncode == 0:
            return compiler
    pytest.skip(f"no compiler with <linux/kvm.h> for {machine}: apt-get install {PACKAGES[machine]}")


def symbols(machine: str, source: str, directory: Path) -> dict[str, bytes]:
    """The bytes of every object *source* defines, by name."""
    c_file, o_file = directory / "values.c", directory / "values.o"
    c_file.write_text(HEADER + source)
    command = [compiler_for(machine), "-c", "-fno-zero-initialized-in-bss", "-o", str(o_file), str(c_file)]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[:4000]
    found = {}
    with o_file.open("rb") as stream:
        elf = ELFFile(stream)
        for symbol in elf.get_section_by_name(".symtab").iter_symbols():
            if symbol["st_info"]["type"] == "STT_OBJECT":
                data = elf.get_section(symbol["st_shndx"]).data()
                found[symbol.name] = data[symbol["st_value"] : symbol["st_value"] + symbol["st_size"]]
    return found


def values(machine: str, expressions: list[str], directory: Path) -> dict[str, int | None]:
    """Each expression's value, modulo 2**64; None for a name that is no macro and no constant (``?NAME``)."""
    lines = []
    for i, expression in enumerate(expressions):
        name = expression.removeprefix("?")
        value = f"const unsigned long long v{i} = (unsigned long long)({name});"
        lines.append(f"#ifdef {name}\n{value}\n#endif" if expression.startswith("?") else value)
    found = symbols(machine, "\n".join(lines), directory)
    return {
        expression: struct.unpack("<Q", found[f"v{i}"])[0] if f"v{i}" in found else None
        for i, expression in enumerate(expressions)
    }
