"""The device tree compiler's tools, and trees made of text."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def tool(name: str) -> str:
    """The path of one of dtc's programs; skips the test where it is missing."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install device-tree-compiler")
    return path


def run(*command: str, data: bytes = b"") -> bytes:
    """The output of *command*; anything on stderr fails the test."""
    done = subprocess.run(command, input=data, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[:2000]
    return done.stdout


def compiled(source: str, *options: str) -> bytes:
    """The blob of device tree source text."""
    text = f"/dts-v1/;\n{source}".encode()
    return run(tool("dtc"), "-q", "-@", "-I", "dts", "-O", "dtb", *options, data=text)


def source_of(blob: bytes) -> str:
    """A blob as dtc reads it, everything sorted: equal texts are equal trees."""
    return run(tool("dtc"), "-q", "-s", "-I", "dtb", "-O", "dts", data=blob).decode()


def overlaid(folder: Path, base: bytes, *overlays: bytes) -> bytes:
    """*base* with *overlays* applied by dtc's fdtoverlay."""
    names = []
    for number, blob in enumerate((base, *overlays)):
        path = folder / f"{number}.dtb"
        path.write_bytes(blob)
        names.append(str(path))
    run(tool("fdtoverlay"), "-i", names[0], "-o", str(folder / "all.dtb"), *names[1:])
    return (folder / "all.dtb").read_bytes()
