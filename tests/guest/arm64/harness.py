"""Runs the guest programs of ``firmware/arm64/bin`` on this machine's KVM."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from pyvmm.config import Config
from pyvmm.machine.machine import Machine
from tests.guest.harness import Guest, Transcript

BIN = Path(__file__).resolve().parents[3] / "firmware" / "arm64" / "bin"
#: Seconds a program gets before the watchdog ends it; the emulated host takes up to ten for some.
WATCHDOG = 60.0
#: Where the parameters of a program lie, from its start.
PARAMETERS = 16


def guest(
    tmp_path: Path,
    name: str,
    *parameters: int,
    console: Transcript | None = None,
    memory: Any = "64M",
    timeout: float = WATCHDOG,
    **keys: Any,
) -> Guest:
    """A machine, not started, of the program *name* with *parameters* patched in."""
    path = BIN / name
    if parameters:
        program = bytearray(path.read_bytes())
        struct.pack_into(f"<{len(parameters)}Q", program, PARAMETERS, *parameters)
        path = tmp_path / name
        path.write_bytes(program)
    if console is None:
        console = Transcript()
    keys.setdefault("firmware", str(path))
    config = Config(memory=memory, timeout=timeout, console="none", **keys)
    return Guest(Machine(config, console=console), console)
